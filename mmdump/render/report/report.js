"use strict";
(function () {
  const root = document.documentElement;
  root.classList.add("script");
  const SHOWN = 25;

  function make(name, properties, ...children) {
    const element = Object.assign(document.createElement(name), properties || {});
    element.append(...children);
    return element;
  }

  function key(cell) {
    return cell.dataset.v !== undefined ? Number(cell.dataset.v) : cell.textContent.trim();
  }

  function compare(a, b) {
    const numbers = typeof a === "number" && typeof b === "number";
    if (numbers) return a - b;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return a.localeCompare(b, "en", { numeric: true });
  }

  // Tables: sorted by a click on a header, filtered by what is typed, long ones cut until asked for.
  for (const table of document.querySelectorAll("table.data")) {
    const body = table.tBodies[0];
    const rows = Array.from(body.rows);
    let all = rows.length <= SHOWN + 5;
    let words = "";
    const count = make("span", { role: "status" });
    const show = function () {
      let matching = 0;
      for (const row of body.rows) {
        const fits = !words || row.textContent.toLowerCase().includes(words);
        if (fits) matching += 1;
        row.hidden = !fits || (!all && !words && matching > SHOWN);
      }
      count.textContent = words ? matching + " of " + rows.length + " rows" : "";
    };
    Array.from(table.tHead.rows[0].cells).forEach(function (header, index) {
      if (rows.length < 2) return;
      const button = make("button", { type: "button", textContent: header.textContent });
      header.textContent = "";
      header.append(button);
      button.addEventListener("click", function () {
        // Numbers are looked through from the largest.
        const number = rows.some((row) => row.cells[index].dataset.v !== undefined);
        const first = number ? "descending" : "ascending";
        const was = header.getAttribute("aria-sort");
        const order = was === null ? first : was === "ascending" ? "descending" : "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        header.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const sorted = rows.slice().sort((a, b) => sign * compare(key(a.cells[index]), key(b.cells[index])));
        body.append(...sorted);
        show();
      });
    });
    const tools = make("div", { className: "tools" });
    if (rows.length > 12) {
      const input = make("input", { type: "search", placeholder: "only rows with …", size: 22 });
      input.setAttribute("aria-label", "Filter rows of " + table.caption.textContent);
      input.addEventListener("input", function () {
        words = input.value.trim().toLowerCase();
        show();
      });
      tools.append(input);
    }
    if (!all) {
      const more = make("button", { type: "button", textContent: "Show all " + rows.length + " rows" });
      more.addEventListener("click", function () {
        all = !all;
        more.textContent = all ? "Show the first " + SHOWN + " rows" : "Show all " + rows.length + " rows";
        show();
      });
      tools.append(more);
    }
    const extra = table.tHead.rows[0].querySelectorAll(".extra").length;
    if (extra && extra < table.tHead.rows[0].cells.length) {
      const columns = make("button", { type: "button", textContent: "Show " + extra + (extra > 1 ? " more columns" : " more column") });
      columns.addEventListener("click", function () {
        const shown = table.classList.toggle("all");
        columns.textContent = shown ? "Show fewer columns" : "Show " + extra + (extra > 1 ? " more columns" : " more column");
      });
      tools.append(columns);
    } else if (extra) {
      table.classList.add("all");
    }
    const chains = table.querySelectorAll("details.chain");
    if (chains.length > 1) {
      const unfold = make("button", { type: "button", textContent: "Unfold all call chains" });
      unfold.addEventListener("click", function () {
        const open = !chains[0].open;
        for (const chain of chains) chain.open = open;
        unfold.textContent = open ? "Fold all call chains" : "Unfold all call chains";
      });
      tools.append(unfold);
    }
    if (tools.childElementCount) {
      tools.append(count);
      table.parentElement.before(tools);
    }
    show();
  }

  // Flame graph: a click on a function gives it the whole width; keys move between functions.
  for (const figure of document.querySelectorAll("figure.flame")) {
    const frames = Array.from(figure.querySelectorAll(".frame"), function (element) {
      return {
        element: element, x: Number(element.dataset.x), w: Number(element.dataset.w),
        level: parseInt(element.style.top, 10) / 20,
      };
    });
    const zoom = function (to) {
      for (const frame of frames) {
        const left = Math.max(frame.x, to.x);
        const right = Math.min(frame.x + frame.w, to.x + to.w);
        const inside = right - left > 1e-6;
        frame.element.classList.toggle("outside", !inside);
        if (inside) {
          frame.element.style.left = (100 * (left - to.x)) / to.w + "%";
          frame.element.style.width = (100 * (right - left)) / to.w + "%";
        }
      }
    };
    const said = make("span", { role: "status" });
    const reset = make("button", { type: "button", textContent: "Whole graph" });
    reset.addEventListener("click", function () { zoom(frames[0]); });
    const input = make("input", { type: "search", placeholder: "find a function …", size: 22 });
    input.setAttribute("aria-label", "Find a function in the flame graph");
    input.addEventListener("input", function () {
      const words = input.value.trim().toLowerCase();
      let weight = 0, end = 0;
      for (const frame of frames) {
        const found = words !== "" && frame.element.textContent.toLowerCase().includes(words);
        frame.element.classList.toggle("found", found);
      }
      // Functions below one that was found are part of it.
      const found = frames.filter((frame) => frame.element.classList.contains("found"));
      found.sort((a, b) => a.x - b.x || a.level - b.level);
      for (const frame of found) {
        if (frame.x + 1e-6 >= end) { weight += frame.w; end = frame.x + frame.w; }
      }
      said.textContent = words ? weight.toFixed(1) + " % are in such functions" : "";
    });
    figure.querySelector(".frames").before(make("div", { className: "tools" }, input, reset, said));
    const focus = function (frame) {
      for (const each of frames) each.element.tabIndex = -1;
      frame.element.tabIndex = 0;
      frame.element.focus();
    };
    const overlap = (a, b) => Math.min(a.x + a.w, b.x + b.w) - Math.max(a.x, b.x) > 1e-6;
    frames.forEach(function (frame, index) {
      const element = frame.element;
      element.tabIndex = index ? -1 : 0;
      element.setAttribute("role", "button");
      element.setAttribute("aria-label", element.title);
      element.addEventListener("click", function () { zoom(frame); said.textContent = element.title; });
      element.addEventListener("keydown", function (event) {
        const level = frames.filter((each) => each.level === frame.level);
        const at = level.indexOf(frame);
        const next = {
          ArrowLeft: level[at - 1],
          ArrowRight: level[at + 1],
          ArrowUp: frames.find((each) => each.level === frame.level - 1 && overlap(each, frame)),
          ArrowDown: frames.find((each) => each.level === frame.level + 1 && overlap(each, frame)),
        }[event.key];
        if (next) { focus(next); event.preventDefault(); }
        if (event.key === "Enter" || event.key === " ") { element.click(); event.preventDefault(); }
        if (event.key === "Escape") reset.click();
      });
    });
  }

  // Map of memory: drawn cell by cell, as large as wished.
  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint32Array(await new Response(stream).arrayBuffer());
  }

  function size(pages, page) {
    let bytes = pages * page;
    for (const unit of ["B", "KiB", "MiB", "GiB", "TiB"]) {
      if (bytes < 1024 || unit === "TiB") return (bytes % 1 ? bytes.toFixed(1) : bytes) + " " + unit;
      bytes /= 1024;
    }
    return "";
  }

  async function drawMap(holder) {
    const shape = JSON.parse(holder.dataset.shape);
    const words = await unpack(holder.dataset.numbers);
    const n = shape.cells, parts = shape.parts, labels = Object.keys(shape.labels);
    const column = (index) => words.subarray(index * n, (index + 1) * n);
    // The step from a cell to the next may be negative only where a table is out of order.
    const starts = new Float64Array(n);
    column(0).forEach(function (step, index) { starts[index] = (index ? starts[index - 1] : 0) + (step | 0); });
    const pages = column(1);
    const counts = parts.map((_, index) => column(2 + index));
    const names = labels.map((label, index) => [shape.labels[label], column(2 + parts.length + index)]);
    const telling = parts.indexOf("pinned");
    const main = new Uint8Array(n);
    for (let cell = 0; cell < n; cell++) {
      let best = -1, most = 0, known = 0;
      for (let part = 0; part < parts.length; part++) {
        const count = counts[part][cell];
        known += count;
        if (count > most) { most = count; best = part; }
      }
      if (pages[cell] - known > most) best = -1;
      if (telling >= 0 && counts[telling][cell]) best = telling;
      main[cell] = best + 1;
    }
    const colors = ["#3c3c3c", ...shape.colors];
    const canvas = make("canvas", { tabIndex: 0 });
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-roledescription", "map");
    canvas.setAttribute("aria-label", "Map of " + n + " cells: arrow keys choose one, plus and minus change their size");
    const says = make("output", {});
    let chosen = -1, columns = 1, edge = 8;

    function draw() {
      const width = Math.max(200, holder.clientWidth - 2);
      columns = Math.max(1, Math.floor(width / edge));
      const rows = Math.ceil(n / columns);
      canvas.width = columns * edge;
      canvas.height = Math.min(rows * edge, 32000);
      const pen = canvas.getContext("2d");
      const gap = edge >= 6 ? 1 : 0;
      for (let cell = 0; cell < n; cell++) {
        const x = (cell % columns) * edge, y = Math.floor(cell / columns) * edge;
        const room = edge - gap;
        if (edge < 14) {
          pen.fillStyle = colors[main[cell]];
          pen.fillRect(x, y, room, room);
          continue;
        }
        // Large cells show their parts, from the bottom.
        pen.fillStyle = colors[0];
        pen.fillRect(x, y, room, room);
        let from = 0;
        for (let part = parts.length - 1; part >= 0; part--) {
          const count = counts[part][cell];
          if (!count) continue;
          const least = part === telling ? 3 / room : 1 / room;
          const share = Math.max(count / pages[cell], least);
          const top = Math.min(1, from + share);
          pen.fillStyle = colors[part + 1];
          pen.fillRect(x, y + room * (1 - top), room, Math.max(1, room * (top - from)));
          from = top;
        }
        if (telling >= 0 && counts[telling][cell]) {
          pen.fillStyle = colors[telling + 1];
          pen.fillRect(x, y, room, Math.max(3, (room * counts[telling][cell]) / pages[cell]));
        }
      }
      if (chosen >= 0) {
        const x = (chosen % columns) * edge, y = Math.floor(chosen / columns) * edge;
        pen.strokeStyle = "#000000";
        pen.lineWidth = 3;
        pen.strokeRect(x - 0.5, y - 0.5, edge, edge);
        pen.strokeStyle = "#ffffff";
        pen.lineWidth = 1;
        pen.strokeRect(x - 0.5, y - 0.5, edge, edge);
      }
    }

    function choose(cell) {
      if (cell < 0 || cell >= n) return;
      chosen = cell;
      const words = names.map(([texts, of], index) => labels[index] + " " + texts[of[cell]]);
      const known = parts.map((part, index) => [part, counts[index][cell]]).filter((each) => each[1]);
      const rest = pages[cell] - known.reduce((sum, each) => sum + each[1], 0);
      if (rest > 0) known.push(["not read", rest]);
      says.textContent =
        "PFN 0x" + starts[cell].toString(16) + " on, " + pages[cell] + " pages (" + size(pages[cell], shape.page) +
        "), " + words.join(", ") + ": " + known.map((each) => each[1] + " " + each[0]).join(", ");
      draw();
    }

    function resize(to) {
      edge = Math.min(48, Math.max(1, to));
      slider.value = edge;
      draw();
      if (chosen >= 0) holder.scrollTop = Math.floor(chosen / columns) * edge - holder.clientHeight / 2;
    }

    const slider = make("input", { type: "range", min: 1, max: 48, step: 1 });
    slider.addEventListener("input", function () { resize(Number(slider.value)); });
    const select = make("select", {});
    select.append(make("option", { value: "", textContent: "go to the next cell with …" }));
    for (const part of parts) select.append(make("option", { value: part, textContent: part }));
    select.setAttribute("aria-label", "Go to the next cell with");
    const next = make("button", { type: "button", textContent: "Next" });
    const go = function () {
      const part = parts.indexOf(select.value);
      if (part < 0) return;
      for (let step = 1; step <= n; step++) {
        const cell = (chosen + step + n) % n;
        if (counts[part][cell]) {
          choose(cell);
          holder.scrollTop = Math.floor(cell / columns) * edge - holder.clientHeight / 2;
          return;
        }
      }
      says.textContent = "No cell has " + select.value + " pages.";
    };
    select.addEventListener("change", go);
    next.addEventListener("click", go);
    canvas.addEventListener("click", function (event) {
      const box = canvas.getBoundingClientRect();
      choose(Math.floor((event.clientY - box.top) / edge) * columns + Math.floor((event.clientX - box.left) / edge));
    });
    canvas.addEventListener("keydown", function (event) {
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
      if (step) choose(Math.max(0, Math.min(n - 1, chosen < 0 ? 0 : chosen + step)));
      else if (event.key === "Home") choose(0);
      else if (event.key === "End") choose(n - 1);
      else if (event.key === "+") resize(edge + 2);
      else if (event.key === "-") resize(edge - 2);
      else return;
      event.preventDefault();
    });
    says.setAttribute("aria-live", "polite");
    const label = make("label", {}, "cell size ", slider);
    holder.before(make("div", { className: "tools" }, label, select, next));
    holder.after(says);
    says.textContent = "No cell is chosen.";
    holder.replaceChildren(canvas);
    // All of memory at a glance: cells as large as fit in a third of a screen.
    const area = Math.max(200, holder.clientWidth) * 300;
    resize(Math.min(24, Math.floor(Math.sqrt(area / n))));
    addEventListener("resize", draw);
  }

  for (const holder of document.querySelectorAll(".map .canvas")) {
    if (holder.dataset.numbers && "DecompressionStream" in window) {
      drawMap(holder).catch(function () { root.classList.remove("script"); });
    }
  }

  // On paper what is folded is lost: unfold the tables that were open, and the chains of evidence.
  let unfolded = [];
  addEventListener("beforeprint", function () {
    const known = new Set();
    unfolded = Array.from(document.querySelectorAll(".finding details:not([open])")).filter(function (each) {
      const first = !known.has(each.textContent);
      known.add(each.textContent);
      return first;
    });
    for (const each of unfolded) each.open = true;
  });
  addEventListener("afterprint", function () {
    for (const each of unfolded) each.open = false;
  });
})();
