// The page of `graphmodel watch`: source and diagnostics beside the picture, which lives in a frame of its own and is
// replaced by a new one after each save. What the picture offers to other scripts is `graphmodelPage` in its window.
(function () {
  "use strict";
  const $ = (id) => document.getElementById(id);
  const stage = $("stage"), source = $("source");
  let specs = [], shown = 0, file = 0, frame = null, coming = null, wanted = "", lines = [];
  const memory = new Map(); // by spec: the file and the view of the picture, for coming back to its tab

  const make = (name, text, className) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  };

  // -- from the server ---------------------------------------------------------------------------------------------

  const events = new EventSource("events");
  events.onmessage = (event) => { specs = JSON.parse(event.data).specs; draw(); };
  events.onerror = () => say("connection lost: `graphmodel watch` has ended", "lost");

  function say(text, kind) {
    $("status").textContent = text;
    $("status").className = kind || "";
  }

  function draw() {
    const spec = specs[shown];
    file = Math.min(file, Math.max(0, spec.files.length - 1));
    tabs($("tabs"), specs.map((s) => s.title || s.name), shown, turn, specs.map((s) => (s.state === "invalid" ? "bad" : "")));
    document.title = `${spec.title || spec.name} · graphmodel watch`;
    const errors = spec.diagnostics.filter((d) => d.severity === "error").length;
    const mistakes = `${errors} ${errors === 1 ? "error" : "errors"}`;
    if (spec.state === "loading") say("reading …");
    else if (spec.state === "invalid") say(mistakes, "invalid");
    else say(spec.complete ? `drawn in ${spec.seconds.toFixed(1)} s` : "drawing …");
    const stale = spec.state === "invalid" && spec.picture > 0;
    stage.classList.toggle("stale", stale);
    $("stale").hidden = !stale;
    $("stale").textContent = `the last valid picture; the spec has ${mistakes} now`;
    $("empty").hidden = spec.picture > 0;
    $("empty").textContent = spec.state === "loading" ? "reading the spec …" : spec.picture ? "" : "no picture yet: the spec has mistakes";
    write();
    findings();
    picture();
  }

  function tabs(group, names, chosen, turnTo, classes) {
    group.replaceChildren(...names.map((name, i) => {
      const tab = make("button", name, classes ? classes[i] : "");
      tab.setAttribute("role", "tab");
      tab.setAttribute("aria-selected", String(i === chosen));
      tab.addEventListener("click", () => turnTo(i));
      return tab;
    }));
  }

  function turn(to) {
    if (to === shown) return;
    remember();
    shown = to;
    file = memory.has(to) ? memory.get(to).file : 0;
    if (frame) frame.remove();
    frame = null;
    wanted = "";
    draw();
  }

  function remember() {
    if (api()) memory.set(shown, { file, view: api().viewState() });
  }

  // -- the picture -------------------------------------------------------------------------------------------------

  const api = () => (frame && frame.contentWindow ? frame.contentWindow.graphmodelPage : null);

  function picture() {
    const spec = specs[shown], address = `picture/${shown}?v=${spec.picture}`;
    if (!spec.picture || wanted === address) return;
    wanted = address;
    if (coming) coming.remove();
    const next = make("iframe", undefined, "next");
    coming = next;
    next.title = `Picture of ${spec.title}`;
    next.addEventListener("load", () => { if (next === coming) replace(next, spec.complete); });
    next.src = address;
    stage.append(next);
  }

  function replace(next, complete) {
    const page = next.contentWindow.graphmodelPage, before = memory.get(shown);
    const view = api() ? api().viewState() : before && before.view;
    coming = null;
    if (!page) return; // the command has ended
    if (view) {
      // A first picture has one level of detail; whoever looks at another waits for the rest.
      if (!complete && api() && page.viewState().level !== view.level) { next.remove(); return; }
      page.restore(view);
    }
    next.contentDocument.addEventListener("graphmodel:select", follow);
    if (frame) frame.remove();
    frame = next;
    frame.className = "";
    frame.dataset.picture = wanted.split("=")[1];
    mark();
    follow();
  }

  function boxes() {
    const found = new Map(); // `file:line` to ids of boxes
    if (!frame) return found;
    for (const box of frame.contentDocument.querySelectorAll("#canvas [data-yaml]")) {
      for (const place of box.dataset.yaml.split("\n")) {
        const at = place.replace(/:\d+$/, "");
        if (!found.has(at)) found.set(at, []);
        found.get(at).push(box.dataset.id);
      }
    }
    return found;
  }

  // -- the source --------------------------------------------------------------------------------------------------

  function write() {
    const spec = specs[shown], open = spec.files[file];
    $("files").hidden = spec.files.length < 2;
    tabs($("files"), spec.files.map((f) => f.name.split("/").pop()), file, (i) => { file = i; write(); follow(); });
    const text = open ? open.text : "";
    const key = JSON.stringify([open && open.name, text]);
    if (source.dataset.key !== key) {
      source.dataset.key = key;
      lines = text.split(/\r?\n/);
      if (lines[lines.length - 1] === "") lines.pop();
      lines = lines.map((line, i) => {
        const row = make("div"), number = make("a", String(i + 1));
        row.setAttribute("role", "listitem");
        number.href = `${open.link}:${i + 1}`;
        number.title = "Open in VS Code";
        row.append(number, make("code", line));
        row.addEventListener("click", (event) => { if (event.target !== number) choose(open.name, i + 1); });
        row.addEventListener("keydown", (event) => { if (event.key === "Enter" && event.target === row) choose(open.name, i + 1); });
        return row;
      });
      source.replaceChildren(...lines);
    }
    for (const severity of ["error", "warning"]) {
      const bad = new Set(spec.diagnostics.filter((d) => open && d.file === open.name && d.severity === severity).map((d) => d.line));
      lines.forEach((row, i) => row.classList.toggle(severity, bad.has(i + 1)));
    }
    mark();
  }

  function mark() {
    // Which lines have a node.
    const open = specs[shown].files[file], nodes = boxes();
    lines.forEach((row, i) => {
      const has = nodes.has(`${open.name}:${i + 1}`);
      row.classList.toggle("node", has);
      if (has) row.tabIndex = 0; else row.removeAttribute("tabindex");
    });
  }

  function choose(name, line) {
    // The node of a line, or of the nearest line above it in the same section of the file.
    const nodes = boxes(), opened = specs[shown].files.find((f) => f.name === name);
    const text = opened ? opened.text.split(/\r?\n/) : [];
    for (let at = line; at > 0; at -= 1) {
      const ids = nodes.get(`${name}:${at}`);
      if (ids) { api().select(ids[0]); return; }
      if (/^[^\s#-]/.test(text[at - 1] || "")) return; // a key of the top level begins the section
    }
  }

  function reveal(name, line) {
    const index = specs[shown].files.findIndex((f) => f.name === name);
    if (index < 0) return;
    if (index !== file) { file = index; write(); }
    const row = lines[line - 1];
    if (row) row.scrollIntoView({ block: "nearest" });
  }

  function follow() {
    // The lines of the selected node.
    const id = api() ? api().selected() : null, place = $("place");
    const box = id === null ? null : [...frame.contentDocument.querySelectorAll("#canvas [data-id]")].find((b) => b.dataset.id === id);
    const places = box && box.dataset.yaml ? box.dataset.yaml.split("\n").map((p) => /^(.*):(\d+):(\d+)$/.exec(p)).filter(Boolean) : [];
    place.replaceChildren();
    if (places.length) {
      const [, name, line, column] = places[0], known = specs[shown].files.findIndex((f) => f.name === name);
      if (known >= 0) {
        const link = make("a", `${name}:${line}`);
        link.href = `${specs[shown].files[known].link}:${line}:${column}`;
        link.title = "Open in VS Code";
        place.append(link);
        if (!places.some((p) => p[1] === specs[shown].files[file].name)) { file = known; write(); }
      }
    } else place.append(make("span", box ? "this node is not written in the spec" : "select a node or a line"));
    const open = specs[shown].files[file];
    const on = new Set(places.filter((p) => open && p[1] === open.name).map((p) => Number(p[2])));
    lines.forEach((row, i) => row.classList.toggle("chosen", on.has(i + 1)));
    const first = lines.find((row) => row.classList.contains("chosen"));
    if (first) first.scrollIntoView({ block: "nearest" });
  }

  // -- diagnostics -------------------------------------------------------------------------------------------------

  function findings() {
    const spec = specs[shown], all = spec.diagnostics;
    $("findings").hidden = !all.length;
    $("findings").replaceChildren(...all.map((d) => {
      const entry = make("article", undefined, d.severity), head = make("h3");
      const rows = d.text.split("\n"), body = make("pre", rows.slice(1).filter((row) => !row.startsWith("  help: ")).join("\n"));
      head.append(make("span", `${d.severity}[${d.code}]`), `: ${d.message}`);
      entry.append(head, body);
      const help = rows.filter((row) => row.startsWith("  help: ")).map((row) => row.slice(2)).join("\n");
      if (help) entry.append(make("p", help));
      if (d.link) {
        const place = make("p"), link = make("a", `${d.file}:${d.line}`);
        link.href = d.link;
        link.title = "Open in VS Code";
        place.append(link);
        entry.append(place);
        entry.addEventListener("click", (event) => {
          if (event.target === link) return;
          reveal(d.file, d.line);
          if (api()) choose(d.file, d.line);
        });
      }
      return entry;
    }));
  }
})();
