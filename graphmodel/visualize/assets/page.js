// The page around the drawings: search, cards, paths, detail, passes, keys. It lays nothing out and knows no models.
(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const canvas = $("canvas"), card = $("card"), find = $("find");
  const state = { passes: data.views.length - 1, level: data.level, chosen: null, span: null, hits: [], hit: -1 };
  let view, svg, zoom, boxes;

  const make = (name, text, className) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  };

  // -- the drawing -------------------------------------------------------------------------------------------------

  function show(keep) {
    const levels = data.views[state.passes].levels;
    state.level = Math.max(0, Math.min(state.level, levels.length - 1));
    if (!levels[state.level].svg) state.level = levels.findIndex((level) => level.svg); // others are still being drawn
    view = levels[state.level];
    if (zoom) zoom.destroy();
    canvas.innerHTML = view.svg; // made and escaped by graphmodel; the policy in <head> lets no script in it run
    svg = canvas.querySelector("svg");
    svg.removeAttribute("width");
    svg.removeAttribute("height");
    boxes = view.boxes.map((box, i) => ({ ...box, element: svg.getElementById(`b-${i}`) }));
    boxes.forEach((box, i) => {
      const element = box.element;
      element.setAttribute("tabindex", "0");
      element.setAttribute("role", "button");
      element.setAttribute("aria-label", `${box.kind} ${box.title}`);
      element.dataset.id = box.id;
      if (box.card.yaml) element.dataset.yaml = box.card.yaml.map((y) => y.place).join("\n"); // file:line:column
      element.addEventListener("click", (event) => (event.shiftKey && state.chosen !== null ? between(state.chosen, i) : choose(i)));
      element.addEventListener("dblclick", (event) => { event.preventDefault(); open(i); });
      element.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(i); }
      });
    });
    view.frames.forEach((frame, i) => {
      for (const id of [`f-${i}`, `f-${i}l`]) {
        const element = svg.getElementById(id);
        if (element) element.addEventListener("click", () => tell(frame, frame.kind));
      }
    });
    $("sums").textContent = view.lines.join(" · ");
    press($("detail"), state.level);
    press($("passes"), state.passes);
    choices();
    zoom = svgPanZoom(svg, { zoomScaleSensitivity: 0.25, minZoom: 0.2, maxZoom: 30, dblClickZoomEnabled: false, fit: true, center: true });
    if (zoom.getSizes().realZoom > 1.6) { zoom.zoom(1.6 / zoom.getSizes().realZoom); zoom.center(); }
    state.span = null;
    search();
    if (keep) {
      const again = boxes.findIndex((box) => box.members.some((m) => keep.includes(m)));
      if (again >= 0) { choose(again); focus(again); return; }
    }
    clear();
  }

  function press(group, index) {
    [...group.children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === index)));
  }

  function focus(index) {
    // Brings a box to the middle without changing the zoom, unless it would be too small to read.
    const element = boxes[index].element, sizes = zoom.getSizes();
    if (sizes.realZoom < 0.7) zoom.zoom(zoom.getZoom() * (0.9 / sizes.realZoom));
    const at = element.getBoundingClientRect(), all = canvas.getBoundingClientRect();
    zoom.panBy({ x: all.left + all.width / 2 - at.left - at.width / 2, y: all.top + all.height / 2 - at.top - at.height / 2 });
  }

  // -- paths: on the calls of the model, so that passes that share a box keep apart -----------------------------------

  function reach(start, forward) {
    const next = new Map();
    for (const [a, b] of view.edges) {
      const [from, to] = forward ? [a, b] : [b, a];
      if (!next.has(from)) next.set(from, []);
      next.get(from).push(to);
    }
    const seen = new Set(start), pending = [...start];
    while (pending.length) for (const n of next.get(pending.pop()) || []) if (!seen.has(n)) { seen.add(n); pending.push(n); }
    return seen;
  }

  function light(on) {
    boxes.forEach((box) => box.element.classList.toggle("on", box.members.some((m) => on.has(m))));
    view.arrows.forEach((arrow, i) => {
      const lit = arrow.members.some(([a, b]) => on.has(a) && on.has(b));
      svg.querySelectorAll(`.a${i}`).forEach((element) => element.classList.toggle("on", lit));
    });
    canvas.classList.add("lit");
  }

  function through(index) {
    const members = boxes[index].members;
    light(new Set([...reach(members, true), ...reach(members, false)]));
  }

  function between(first, second) {
    const one = boxes[first].members, other = boxes[second].members;
    const on = (a, b) => { const down = reach(a, true), up = reach(b, false); return new Set([...down].filter((n) => up.has(n))); };
    const found = on(one, other);
    light(found.size ? found : on(other, one));
    state.span = [first, second];
  }

  function choices() {
    for (const [id, kind, all] of [["from", "input", "any input"], ["to", "output", "any output"]]) {
      const select = $(id);
      select.replaceChildren(new Option(all, ""));
      boxes.forEach((box, i) => { if (box.kind === kind) select.add(new Option(box.title, String(i))); });
    }
  }

  function path() {
    const first = $("from").value, second = $("to").value;
    if (!first && !second) return clear();
    unchoose();
    if (first && second) between(Number(first), Number(second));
    else through(Number(first || second));
  }

  // -- cards -------------------------------------------------------------------------------------------------------

  function unchoose() {
    if (state.chosen !== null && boxes[state.chosen]) boxes[state.chosen].element.classList.remove("chosen");
    state.chosen = null;
    card.hidden = true;
    zoom.resize();
    announce();
  }

  function announce() {
    document.dispatchEvent(new Event("graphmodel:select")); // for other scripts: `selected()` says what
  }

  function clear() {
    unchoose();
    state.span = null;
    $("from").value = $("to").value = "";
    canvas.classList.remove("lit");
  }

  function choose(index) {
    unchoose();
    $("from").value = $("to").value = "";
    state.chosen = index;
    boxes[index].element.classList.add("chosen");
    through(index);
    tell(boxes[index], boxes[index].kind, index);
    announce();
  }

  const LABELS = [
    ["heads", "Heads"], ["outputs", "Outputs"], ["paths", "Module path"], ["classes", "Class"], ["families", "Registered as"], ["copies", "Copy of"],
    ["reads", "Reads"], ["gives", "Gives"],
  ];

  function tell(item, kind, index) {
    const told = item.card;
    card.replaceChildren();
    const top = make("div", undefined, "top"), close = make("button", "×");
    close.setAttribute("aria-label", "Close");
    close.addEventListener("click", clear);
    top.append(make("h2", item.title + (item.times > 1 ? ` ×${item.times}` : "")), close);
    card.append(top, make("p", [item.ghost ? "left out of the model" : kind, ...item.lines].join(" · "), "kind"));
    const tags = make("div", undefined, "tags");
    (item.features || []).forEach((f) => tags.append(make("span", f, "tag feature")));
    item.badges.forEach((b) => tags.append(make("span", b, "tag")));
    if (tags.children.length) card.append(tags);
    const list = make("dl");
    const row = (name, ...values) => {
      list.append(make("dt", name));
      values.forEach((value) => { const dd = make("dd"); dd.append(value); list.append(dd); });
    };
    (told.yaml || []).slice(0, 20).forEach((y, i) => {
      const dd = make("div");
      dd.append(make("div", y.place), make("code", y.text));
      if (i) { const more = make("dd"); more.append(dd); list.append(more); } else row("YAML", dd);
    });
    const code = (text) => make("code", text);
    for (const [key, name] of LABELS) if (told[key]) row(name, ...told[key].map(code));
    if (told.parameters) {
      const train = told.trainable || 0;
      const note = train === told.parameters ? "all train" : train ? `${train.toLocaleString("en")} train` : "none train";
      row("Parameters", `${told.parameters.toLocaleString("en")} (${note})`);
    }
    if (told.flops) row("FLOPs per sample", told.flops.toLocaleString("en"));
    if (told.facts) row("Passes", ...told.facts);
    if (told.settings) row("Settings", table(Object.entries(told.settings).map(([k, v]) => [k, typeof v === "string" ? v : JSON.stringify(v)])));
    if (told.contents) row("Contents", table(told.contents.map(([n, c, p]) => [n, c, p ? p.toLocaleString("en") : ""])));
    if (told.calls) row(told.calls.length > 1 ? `Calls (${told.calls.length})` : "Call", ...told.calls.slice(0, 30).map(code));
    card.append(list);
    if (index !== undefined && canOpen(index)) {
      const button = make("button", "Open what is folded here", "more");
      button.addEventListener("click", () => open(index));
      card.append(button);
    }
    card.hidden = false;
    card.scrollTop = 0;
    zoom.resize();
  }

  function table(rows) {
    const made = make("table");
    for (const cells of rows) { const tr = make("tr"); cells.forEach((c) => tr.append(make("td", c))); made.append(tr); }
    return made;
  }

  // -- folding -----------------------------------------------------------------------------------------------------

  function opened(index) {
    // The next level of detail on which the calls of a box lie in several boxes.
    const levels = data.views[state.passes].levels, members = new Set(boxes[index].members);
    for (let i = state.level + 1; i < levels.length; i += 1) {
      if (levels[i].boxes.filter((box) => box.members.some((m) => members.has(m))).length > 1) return i;
    }
    return -1;
  }

  const canOpen = (index) => opened(index) >= 0;

  function open(index) {
    const level = opened(index);
    if (level < 0) return;
    state.level = level;
    show(boxes[index].members);
  }

  function detail(step) {
    const keep = state.chosen === null ? null : boxes[state.chosen].members;
    const before = state.level;
    state.level = Math.max(0, Math.min(before + step, data.views[state.passes].levels.length - 1));
    if (state.level !== before) show(keep);
  }

  function passes(which) {
    if (which === state.passes || !data.views[which]) return;
    const name = data.views[state.passes].levels[state.level].name;
    state.passes = which;
    const same = data.views[which].levels.findIndex((level) => level.name === name);
    if (same >= 0) state.level = same;
    buttons();
    show(null);
  }

  // -- search ------------------------------------------------------------------------------------------------------

  function search() {
    const words = find.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    state.hits = [];
    state.hit = -1;
    boxes.forEach((box, i) => {
      const hit = words.length > 0 && words.every((w) => box.text.includes(w));
      box.element.classList.toggle("hit", hit);
      if (hit) state.hits.push(i);
    });
    $("found").textContent = words.length ? String(state.hits.length) : "";
  }

  function nextHit(step) {
    if (!state.hits.length) return;
    state.hit = (state.hit + step + state.hits.length) % state.hits.length;
    $("found").textContent = `${state.hit + 1} / ${state.hits.length}`;
    choose(state.hits[state.hit]);
    focus(state.hits[state.hit]);
  }

  // -- keys --------------------------------------------------------------------------------------------------------

  function walk(key) {
    const ids = (from, to) => view.arrows.filter((a) => a[from] === state.chosen).map((a) => a[to]);
    const down = ids("source", "target"), up = ids("target", "source");
    let to = key === "ArrowDown" ? down[0] : key === "ArrowUp" ? up[0] : undefined;
    if (to === undefined && (key === "ArrowLeft" || key === "ArrowRight")) {
      const row = [...new Set(up.flatMap((u) => view.arrows.filter((a) => a.source === u).map((a) => a.target)))];
      const kin = row.length > 1 ? row : boxes.map((b, i) => i).filter((i) => boxes[i].kind === boxes[state.chosen].kind);
      to = kin[(kin.indexOf(state.chosen) + (key === "ArrowRight" ? 1 : kin.length - 1)) % kin.length];
    }
    if (to !== undefined && to !== state.chosen) { choose(to); focus(to); boxes[to].element.focus({ preventScroll: true }); }
  }

  function dark(on) {
    document.documentElement.classList.toggle("dark", on);
    $("dark").setAttribute("aria-pressed", String(on));
  }

  function help(on) {
    $("help").hidden = !on;
    $("keys").setAttribute("aria-expanded", String(on));
  }

  const KEYS = {
    "/": () => find.focus(), "+": () => zoom.zoomIn(), "=": () => zoom.zoomIn(), "-": () => zoom.zoomOut(),
    0: () => { zoom.resize(); zoom.fit(); zoom.center(); }, "[": () => detail(-1), "]": () => detail(1),
    b: () => passes(1 - state.passes), d: () => dark(!document.documentElement.classList.contains("dark")),
    p: () => $("from").focus(), "?": () => help($("help").hidden),
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") {
      if (!$("help").hidden) return help(false);
      if (document.activeElement === find) { find.value = ""; search(); find.blur(); }
      return clear();
    }
    if (/^(INPUT|SELECT)$/.test(document.activeElement.tagName)) return;
    if (event.key.startsWith("Arrow")) {
      event.preventDefault();
      if (state.chosen !== null) return walk(event.key);
      const step = 60, by = { ArrowDown: [0, -step], ArrowUp: [0, step], ArrowLeft: [step, 0], ArrowRight: [-step, 0] }[event.key];
      return zoom.panBy({ x: by[0], y: by[1] });
    }
    const act = KEYS[event.key];
    if (act) { event.preventDefault(); act(); }
  });

  function buttons() {
    const fill = (group, names, act) => {
      group.replaceChildren(...names.map((name, i) => { const b = make("button", name); b.addEventListener("click", () => act(i)); return b; }));
      group.hidden = names.length < 2;
    };
    fill($("detail"), data.views[state.passes].levels.map((l) => l.name), (i) => detail(i - state.level));
    fill($("passes"), data.views.map((v) => v.name), passes);
  }

  // -- what other scripts may use: the page may be made anew while it is open ------------------------------------------

  function viewState() {
    const pan = zoom.getPan();
    return {
      view: data.views[state.passes].name, level: view.name, zoom: zoom.getZoom(), pan: { x: pan.x, y: pan.y },
      selected: selected(), dark: document.documentElement.classList.contains("dark"),
    };
  }

  function selected() {
    return state.chosen === null ? null : boxes[state.chosen].id;
  }

  function select(id) {
    const index = boxes.findIndex((box) => box.id === id);
    if (index < 0) return false;
    choose(index);
    return true;
  }

  function restore(was) {
    const which = data.views.findIndex((v) => v.name === was.view);
    if (which >= 0) state.passes = which;
    const level = data.views[state.passes].levels.findIndex((l) => l.name === was.level);
    if (level >= 0) state.level = level;
    buttons();
    show(null);
    if (was.selected) select(was.selected);
    dark(was.dark);
    zoom.zoom(was.zoom);
    zoom.pan(was.pan);
  }

  window.graphmodelPage = { select, selected, viewState, restore };

  find.addEventListener("input", search);
  find.addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); nextHit(event.shiftKey ? -1 : 1); } });
  $("from").addEventListener("change", path);
  $("to").addEventListener("change", path);
  $("in").addEventListener("click", KEYS["+"]);
  $("out").addEventListener("click", KEYS["-"]);
  $("fit").addEventListener("click", KEYS[0]);
  $("dark").addEventListener("click", KEYS.d);
  $("keys").addEventListener("click", KEYS["?"]);
  window.addEventListener("resize", () => { zoom.resize(); });
  dark(data.theme === "dark" || (data.theme === "auto" && window.matchMedia("(prefers-color-scheme: dark)").matches));
  buttons();
  show(null);
})();
