// The page around the drawings: search, cards, paths, detail, passes, keys. It lays nothing out and knows no models.
(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const canvas = $("canvas"), card = $("card"), find = $("find");
  const state = { passes: data.views.length - 1, level: data.level, chosen: null, span: null, hits: [], hit: -1 };
  let view, svg, zoom, boxes, root;

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
    if (!levels[state.level].svgs.length) state.level = levels.findIndex((level) => level.svgs.length); // others are still being drawn
    view = levels[state.level];
    if (zoom) zoom.destroy();
    canvas.innerHTML = view.svgs[narrow() ? view.svgs.length - 1 : 0]; // made and escaped by graphmodel; the policy in <head> lets no script in it run
    svg = canvas.querySelector("svg");
    svg.removeAttribute("width");
    svg.removeAttribute("height");
    svg.setAttribute("role", "group");
    svg.setAttribute("aria-roledescription", "graph");
    root = drawing(svg.querySelector(".graph"), view, "");
    boxes = root.boxes;
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
    if (narrow()) {
      const sizes = zoom.getSizes(), wide = sizes.width / sizes.viewBox.width / sizes.realZoom;
      if (wide > 1) { zoom.zoom(wide * zoom.getZoom()); zoom.pan({ x: zoom.getPan().x, y: 0 }); }
    } else if (zoom.getSizes().realZoom > 1.6) { zoom.zoom(1.6 / zoom.getSizes().realZoom); zoom.center(); }
    state.span = null;
    search();
    if (keep) {
      const again = boxes.findIndex((box) => box.members.some((m) => keep.includes(m)));
      if (again >= 0) { choose(again); focus(again); return; }
    }
    clear();
  }

  const narrow = () => window.innerWidth < 0.8 * window.innerHeight;

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

  // -- blocks: an opened box gets wider and higher in its middle, everything else moves aside and keeps its order ---------

  const NUMBERS = /-?\d+(?:\.\d+)?/g;

  function drawing(graph, content, prefix) {
    const made = { graph, arrows: content.arrows, prefix };
    made.boxes = content.boxes.map((box, i) => {
      const element = graph.querySelector(`[id="b-${i}"]`);
      return { ...box, id: prefix ? `${prefix}/${box.title}#${i}` : box.id, element, index: i, host: made, opened: null };
    });
    if (prefix) graph.querySelectorAll("[id]").forEach((element) => element.removeAttribute("id"));
    made.parts = [...graph.querySelectorAll("path, polygon, text")].map((element) => {
      const label = element.closest(".arrow-text"), holder = element.closest(".box, .frame-label");
      // What a box or a title says stays together.
      const inside = holder && (element.tagName === "text" || element !== holder.querySelector("path, polygon") && element.tagName === "path") ? holder : null;
      const name = element.tagName === "path" ? "d" : "points";
      if (element.tagName === "text") return { element, label, inside, x: Number(element.getAttribute("x")), y: Number(element.getAttribute("y")) };
      const arrow = element.closest(".arrow"), head = arrow && arrow.querySelector("polygon");
      const tip = head && head.getAttribute("points").match(NUMBERS).map(Number).slice(2, 4);
      const outline = element.closest(".box");
      return { element, label, inside, outline, name, text: element.getAttribute(name), tip, head: arrow && name === "points" };
    });
    const numbers = (element) => element.getAttribute(element.tagName === "path" ? "d" : "points").match(NUMBERS).map(Number);
    const area = (element) => {
      const all = numbers(element), xs = all.filter((_, i) => i % 2 === 0), ys = all.filter((_, i) => i % 2);
      return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
    };
    made.boxes.forEach((box) => { box.area = box.element.area = area(box.element.querySelector("path, polygon")); });
    graph.querySelectorAll(".frame-label").forEach((label) => { label.top = Number(label.querySelector("text").getAttribute("y")); });
    graph.querySelectorAll(".arrow-text").forEach((label) => { label.area = area(label.querySelector("polygon")); });
    made.paper = area(graph.querySelector("polygon"));
    made.boxes.forEach(wire);
    return made;
  }

  function draw(name, attributes) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  function wire(box) {
    const element = box.element;
    const toChoose = () => choose(boxes.indexOf(box));
    element.setAttribute("tabindex", "0");
    element.setAttribute("role", "button");
    element.setAttribute("aria-label", [box.kind, box.title, ...box.lines, ...box.features, ...box.badges].join(", "));
    element.dataset.id = box.id;
    if (box.card.yaml) element.dataset.yaml = box.card.yaml.map((y) => y.place).join("\n"); // file:line:column
    element.addEventListener("click", (event) => {
      event.stopPropagation();
      if (event.shiftKey && state.chosen !== null && !box.host.prefix) between(state.chosen, boxes.indexOf(box));
      else toChoose();
    });
    element.addEventListener("dblclick", (event) => { event.preventDefault(); event.stopPropagation(); open(boxes.indexOf(box)); });
    element.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      event.stopPropagation();
      if (state.chosen !== null && boxes[state.chosen] === box) open(state.chosen);
      else toChoose();
    });
    if (box.block === undefined) return;
    element.setAttribute("aria-expanded", "false");
    const area = element.querySelector("path, polygon").getBBox(), sign = draw("g", { class: "opener", "aria-hidden": "true" });
    sign.append(draw("circle", { r: 6 }), draw("path", { class: "bar", d: "M-3,0H3" }), draw("path", { class: "bar plus", d: "M0,-3V3" }));
    box.sign = { element: sign, x: area.x + area.width - 3, y: area.y + area.height - 3 };
    sign.setAttribute("transform", `translate(${box.sign.x} ${box.sign.y})`);
    sign.addEventListener("click", (event) => { event.stopPropagation(); toggle(box); });
    element.append(sign);
  }

  function cut(made, box, axis, low, high) {
    // Where a box is cut to make room: as near to its middle as other boxes have neither corners nor arrow heads.
    const edges = made.boxes.filter((other) => other !== box).flatMap((other) => [other.area[axis] - 2, other.area[axis + 2]]);
    const room = (at) => Math.min(...edges.map((edge) => Math.abs(edge - at)), 12);
    let best = (low + high) / 2;
    for (let step = 1; step < (high - low) / 2 - 8; step += 1) {
      for (const at of [(low + high) / 2 - step, (low + high) / 2 + step]) if (room(at) > room(best)) best = at;
    }
    return best;
  }

  function arrange(made) {
    // Gives everything in a drawing its place; the opened boxes in it first.
    const open = made.boxes.filter((box) => box.opened);
    const bands = [[], []];
    for (const box of open) {
      arrange(box.opened);
      const [x0, y0, x1, y1] = box.area;
      const need = [box.opened.size[0] + 12, box.opened.size[1] + 30];
      [[x0, x1], [y0, y1]].forEach(([low, high], axis) => {
        const at = cut(made, box, axis, low, high);
        bands[axis].push([at - 0.5, at + 0.5, Math.max(0, need[axis] - (high - low))]);
      });
    }
    const moved = (axis, at) => at + bands[axis].reduce((sum, [low, high, grows]) => sum + grows * Math.max(0, Math.min(1, (at - low) / (high - low))), 0);
    const rigid = ([x0, y0, x1, y1]) => { const x = (x0 + x1) / 2, y = (y0 + y1) / 2; return [moved(0, x) - x, moved(1, y) - y]; };
    const shifted = (text, dx, dy) => { let i = 0; return text.replace(NUMBERS, (n) => (Number(n) + (i++ % 2 ? dy : dx)).toFixed(2)); };
    const beside = ({ area }, axis, at) => { // a point of an outline keeps its distance from the nearer side
      const side = area[at < (area[axis] + area[axis + 2]) / 2 ? axis : axis + 2];
      return at + moved(axis, side) - side;
    };
    const down = (holder) => { // the middle of a box, the first line of a title
      const ends = holder.area ? [holder.area[1], holder.area[3]] : [holder.top];
      return ends.reduce((sum, y) => sum + moved(1, y) - y, 0) / ends.length;
    };
    for (const part of made.parts) {
      if (part.inside) {
        const dy = down(part.inside);
        if (part.name) { // a badge keeps its size
          const left = Math.min(...part.text.match(NUMBERS).map(Number).filter((_, i) => i % 2 === 0));
          part.element.setAttribute(part.name, shifted(part.text, moved(0, left) - left, dy));
        } else { part.element.setAttribute("x", moved(0, part.x)); part.element.setAttribute("y", part.y + dy); }
      } else if (part.label || part.head) {
        const [dx, dy] = rigid(part.head ? [...part.tip, ...part.tip] : part.label.area);
        if (part.name) part.element.setAttribute(part.name, shifted(part.text, dx, dy));
        else { part.element.setAttribute("x", part.x + dx); part.element.setAttribute("y", part.y + dy); }
      } else if (part.name) {
        let i = 0;
        const last = part.tip ? part.text.match(NUMBERS).length - 2 : Infinity; // a line ends where its head moves to
        const [dx, dy] = part.tip ? rigid([...part.tip, ...part.tip]) : [0, 0];
        part.element.setAttribute(part.name, part.text.replace(NUMBERS, (n) => {
          const axis = i % 2;
          const at = part.outline ? beside(part.outline, axis, Number(n)) : i < last ? moved(axis, Number(n)) : Number(n) + (axis ? dy : dx);
          i += 1;
          return at.toFixed(2);
        }));
      } else {
        part.element.setAttribute("x", moved(0, part.x));
        part.element.setAttribute("y", moved(1, part.y));
      }
    }
    for (const box of open) {
      const x = moved(0, box.area[0]) + 6, y = moved(1, box.area[1]) + 24, inner = box.opened;
      inner.graph.setAttribute("transform", `translate(${x - inner.paper[0]} ${y - inner.paper[1]})`);
      const title = box.element.querySelector("text");
      title.setAttribute("y", moved(1, box.area[1]) + 16);
    }
    for (const box of made.boxes) {
      if (box.sign) box.sign.element.setAttribute("transform", `translate(${moved(0, box.sign.x)} ${moved(1, box.sign.y)})`);
    }
    made.size = [moved(0, made.paper[2]) - moved(0, made.paper[0]), moved(1, made.paper[3]) - moved(1, made.paper[1])];
  }

  function flat(made) {
    return made.boxes.flatMap((box) => [box, ...(box.opened ? flat(box.opened) : [])]);
  }

  function toggle(box, still) {
    // Opens or closes a block; its corner stays where it is on the screen.
    const chosen = selected(), corner = () => box.element.querySelector("path, polygon").getBoundingClientRect(), before = corner();
    if (box.opened) {
      box.opened.graph.remove();
      box.opened = null;
    } else {
      const text = JSON.stringify(data.blocks[box.block]).split("\\u0001").join(JSON.stringify(box.path).slice(1, -1));
      const content = JSON.parse(text), holder = document.createElementNS("http://www.w3.org/2000/svg", "g");
      holder.innerHTML = content.svg; // as above
      const graph = holder.querySelector(".graph");
      graph.querySelector("polygon").setAttribute("fill", "none");
      graph.querySelector("polygon").setAttribute("pointer-events", "none");
      graph.classList.add("inner");
      graph.querySelectorAll(".arrow-text > polygon").forEach((ground) => ground.setAttribute("fill", data.ground));
      box.element.after(graph);
      box.opened = drawing(graph, content, box.id);
    }
    box.element.classList.toggle("open", Boolean(box.opened));
    box.element.setAttribute("aria-expanded", String(Boolean(box.opened)));
    const border = box.element.querySelector("path, polygon");
    box.fill = box.fill || border.getAttribute("fill");
    border.setAttribute("fill", box.opened ? data.ground : box.fill);
    arrange(root);
    boxes = flat(root);
    const after = corner();
    if (!still) zoom.panBy({ x: before.left - after.left, y: before.top - after.top });
    state.chosen = null;
    if (chosen === null || !select(chosen)) clear();
    search();
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
    root.boxes.forEach((box) => {
      const lit = box.members.some((m) => on.has(m));
      [box, ...(box.opened ? flat(box.opened) : [])].forEach((each) => each.element.classList.toggle("on", lit));
      if (box.opened) box.opened.graph.querySelectorAll(".arrow, .arrow-text").forEach((element) => element.classList.toggle("on", lit));
    });
    view.arrows.forEach((arrow, i) => {
      const lit = arrow.members.some(([a, b]) => on.has(a) && on.has(b));
      svg.querySelectorAll(`.a${i}`).forEach((element) => element.classList.toggle("on", lit));
    });
    canvas.classList.add("lit");
  }

  function through(index) {
    if (boxes[index].host.prefix) { canvas.classList.remove("lit"); return; }
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
      boxes.forEach((box, i) => { if (box.kind === kind && !box.host.prefix) select.add(new Option(box.title, String(i))); });
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
      const button = make("button", boxes[index].opened ? "Close" : "Open", "more");
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
    if (boxes[index].host.prefix) return -1;
    const levels = data.views[state.passes].levels, members = new Set(boxes[index].members);
    for (let i = state.level + 1; i < levels.length; i += 1) {
      if (levels[i].boxes.filter((box) => box.members.some((m) => members.has(m))).length > 1) return i;
    }
    return -1;
  }

  const canOpen = (index) => boxes[index].block !== undefined || opened(index) >= 0;

  function open(index) {
    if (boxes[index].block !== undefined) return toggle(boxes[index]);
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
    const { host, index } = boxes[state.chosen];
    const here = (i) => boxes.indexOf(host.boxes[i]);
    const ids = (from, to) => host.arrows.filter((a) => a[from] === index).map((a) => here(a[to]));
    const down = ids("source", "target"), up = ids("target", "source");
    let to = key === "ArrowDown" ? down[0] : key === "ArrowUp" ? up[0] : undefined;
    if (to === undefined && (key === "ArrowLeft" || key === "ArrowRight")) {
      const row = [...new Set(up.flatMap((u) => host.arrows.filter((a) => here(a.source) === u).map((a) => here(a.target))))];
      const kin = row.length > 1 ? row : boxes.map((b, i) => i).filter((i) => boxes[i].host === host && boxes[i].kind === boxes[state.chosen].kind);
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
    o: () => { if (state.chosen !== null) open(state.chosen); }, p: () => $("from").focus(), "?": () => help($("help").hidden),
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
      selected: selected(), opened: boxes.filter((box) => box.opened).map((box) => box.id), dark: document.documentElement.classList.contains("dark"),
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
    for (const id of was.opened || []) { const box = boxes.find((b) => b.id === id); if (box && box.block !== undefined) toggle(box, true); }
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
