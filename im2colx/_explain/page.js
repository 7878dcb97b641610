// Keeps the page true when another output or entry is chosen.  html.py wrote it for the first one, cell by cell as `panels`
// and text by text as `slots` do here: what is changed in one of the two files must be changed in the other.
"use strict";
(() => {
const facts = JSON.parse(document.getElementById("facts").textContent);
const {sizes: S, view: V, at: AT, output_size: [AXIS_I, AXIS_J]} = facts;
const isLast = facts.call.layout === "NHWC";
const perGroup = S.C / S.G, filtersPerGroup = S.F / S.G;
const span = ([start, stop]) => Array.from({length: stop - start}, (_, k) => start + k);
const [images, channels, filters, rowsI, columnsJ, rowsA, columnsB] = [..."ncfijab"].map(name => span(V[name]));
const outputs = images.flatMap(n => rowsA.flatMap(a => columnsB.map(b => [n, a, b])));
const imageRows = rowsI.filter(i => 0 <= i && i < S.H), imageColumns = columnsJ.filter(j => 0 <= j && j < S.W);

// The output that is looked at, the entry k of its row (-1: none), and the place of that entry, or of another pixel.
// Whether a click holds that place against the pointer.
let isKept = false;
const state = {n: AT.n, f: AT.f, a: AT.a, b: AT.b, k: facts.mark, c: 0, i: 0, j: 0};

// ---- Numbers and words, as in words.py ----
const number = value => typeof value === "string" ? Number(value) : value;   // "NaN", "Infinity"
function digits(value) {
  if (Number.isNaN(value)) return "NaN";
  let text;
  if (!Number.isFinite(value)) text = value > 0 ? "∞" : "-∞";
  else if (Number.isInteger(value) && Math.abs(value) < 1e6) text = String(value);
  else {
    const [mantissa, exponent] = value.toExponential(3).split("e").map(Number);
    text = -4 <= exponent && exponent < 6 ? String(Number(value.toExponential(3))) : `${mantissa}e${exponent}`;
  }
  return text.replaceAll("-", "−");
}
const signed = value => String(value).replaceAll("-", "−");
const thousands = value => String(value).replace(/\B(?=(\d{3})+$)/g, ",");
const times = count => count === 1 ? "once" : `${thousands(count)} times`;
const tuple = values => `(${signed(values.join(", "))})`;

// ---- The index map, and what it leads to ----
const groupOf = f => Math.floor(f / filtersPerGroup);
const row = (n, a, b) => (n * S.OH + a) * S.OW + b;
const isInside = (i, j) => 0 <= i && i < S.H && 0 <= j && j < S.W;
function place(f, a, b, k) {
  const [, c, u, v] = V.entries[k];
  return {
    c: groupOf(f) * perGroup + c,
    i: a * AXIS_I.stride + u * AXIS_I.dilation - AXIS_I.before,
    j: b * AXIS_J.stride + v * AXIS_J.dilation - AXIS_J.before,
  };
}
const plane = (n, c) => facts.x[n - V.n[0]][c - V.c[0]];
const pixel = (n, c, i, j) => isInside(i, j) ? number(plane(n, c)[i - V.i[0]][j - V.j[0]]) : 0;
const weight = (f, k) => number(facts.w[f - V.f[0]][k]);
const result = (n, f, a, b) => number(facts.y_values[n - V.n[0]][f - V.f[0]][a - V.a[0]][b - V.b[0]]);
const entryAt = new Map(V.entries.map(([, c, u, v], k) => [`${c},${u},${v}`, k]));
function tapAt(axis, o, place) {   // which tap of output o lies on a place, or -1
  const distance = place - (o * axis.stride - axis.before);
  const tap = distance / axis.dilation;
  return Number.isInteger(tap) && 0 <= tap && tap < axis.kernel ? tap : -1;
}
function entryOf(c, i, j) {   // the entry of the present row that lies on a place, or -1
  if (Math.floor(c / perGroup) !== groupOf(state.f)) return -1;
  return entryAt.get(`${c % perGroup},${tapAt(AXIS_I, state.a, i)},${tapAt(AXIS_J, state.b, j)}`) ?? -1;
}
function readersOnAxis(axis, place) {   // pairs (output, tap) with output·S + tap·D − P = place
  const found = [];
  for (let tap = 0; tap < axis.kernel; tap++) {
    const output = (place + axis.before - tap * axis.dilation) / axis.stride;
    if (Number.isInteger(output) && 0 <= output && output < axis.output) found.push([output, tap]);
  }
  return found.sort((one, other) => one[0] - other[0]);
}
function outputsOfTap(axis, tap) {   // how many outputs find a pixel under a tap
  const start = tap * axis.dilation - axis.before;
  const first = Math.max(Math.ceil(-start / axis.stride), 0);
  return Math.max(Math.min(Math.floor((axis.size - 1 - start) / axis.stride), axis.output - 1) - first + 1, 0);
}
const columnOf = (c, u, v) => isLast ? (u * S.KW + v) * perGroup + c : (c * S.KH + u) * S.KW + v;
const qOf = k => V.entries[k][0];

// ---- What is chosen ----
function output(n, f, a, b) {
  Object.assign(state, {n, f, a, b});
  if (state.k >= 0) Object.assign(state, place(f, a, b, state.k));
  else state.k = entryOf(state.c, state.i, state.j);
}
function point(k) {
  state.k = k;
  Object.assign(state, place(state.f, state.a, state.b, k));
}
function pointAt(c, i, j) {
  const k = entryOf(c, i, j);
  if (k >= 0) point(k);
  else Object.assign(state, {k, c, i, j});
}
const position = () => outputs.findIndex(([n, a, b]) => n === state.n && a === state.a && b === state.b);
function step(by) {
  const [n, a, b] = outputs[Math.min(Math.max(position() + by, 0), outputs.length - 1)];
  output(n, state.f, a, b);
}
function near(items, index, most) {   // at most so many neighbours of one item, and where they start
  const start = Math.max(0, Math.min(index - Math.floor(most / 2), items.length - most));
  return [items.slice(start, start + most), start];
}
const shownRows = () => near(outputs, position(), V.number_rows);
const filtersShown = () => filters.filter(f => groupOf(f) === groupOf(state.f));

// ---- Shades of tables whose cells are too small for numbers ----
function limits(values) {
  const finite = values.flat(Infinity).filter(value => value !== null).map(number).filter(Number.isFinite);
  return [finite.reduce((one, other) => Math.min(one, other), Infinity), finite.reduce((one, other) => Math.max(one, other), -Infinity)];
}
const xLimits = limits(facts.x), yLimits = limits(facts.y_values);
function shade(value, [low, high]) {
  const share = high > low ? (value - low) / (high - low) : 0;
  return Number.isNaN(share) ? 0 : Math.floor(100 * Math.min(Math.max(share, 0), 1) + 0.5);
}

function pointInPhi([n, a, b], k) {   // an entry of another row is its pixel, for the present row
  const {c, i, j} = place(state.f, a, b, k);
  if (n === state.n && a === state.a && b === state.b) point(k);
  else if (n === state.n && isInside(i, j)) pointAt(c, i, j);
}

// ---- Panels: each tells what its cells are, where the present place is, and what a cell means ----
const clamp = (value, items) => Math.min(Math.max(value, items[0]), items[items.length - 1]);
const join = marks => Object.keys(marks).filter(name => marks[name]).join(" ");
const isHere = (n, c, i, j) => n === state.n && c === state.c && i === state.i && j === state.j;

const panels = {
  image(el) {
    const c = Number(el.dataset.c), isSmall = el.classList.contains("small");
    return {
      cell(r, s) {
        const i = rowsI[r], j = columnsJ[s];
        const top = state.a * AXIS_I.stride - AXIS_I.before, left = state.b * AXIS_J.stride - AXIS_J.before;
        const bottom = top + AXIS_I.reach - 1, right = left + AXIS_J.reach - 1;
        const isSeen = Math.floor(c / perGroup) === groupOf(state.f);
        const isBox = isSeen && top <= i && i <= bottom && left <= j && j <= right;
        const value = pixel(state.n, c, i, j);
        return {
          text: digits(value),
          shade: isSmall ? shade(value, xLimits) : null,
          marks: join({
            pad: !isInside(i, j),
            in: isBox && (i - top) % AXIS_I.dilation === 0 && (j - left) % AXIS_J.dilation === 0,
            bt: isBox && i === top, bb: isBox && i === bottom, bl: isBox && j === left, br: isBox && j === right,
            dim: !isSeen,
            hot: c === state.c && i === state.i && j === state.j,
          }),
        };
      },
      here: () => [clamp(state.i, rowsI) - rowsI[0], clamp(state.j, columnsJ) - columnsJ[0]],
      point: (r, s) => pointAt(c, rowsI[r], columnsJ[s]),
    };
  },
  y(el) {
    const isSmall = el.classList.contains("small");
    return {
      cell(r, s) {
        const value = result(state.n, state.f, rowsA[r], columnsB[s]);
        return {
          text: digits(value),
          shade: isSmall ? shade(value, yLimits) : null,
          marks: join({out: rowsA[r] === state.a && columnsB[s] === state.b}),
        };
      },
      here: () => [state.a - rowsA[0], state.b - columnsB[0]],
      choose: (r, s) => output(state.n, state.f, rowsA[r], columnsB[s]),
    };
  },
  filter(el) {
    const c = Number(el.dataset.c);
    return {
      cell(r, s) {
        const k = entryAt.get(`${c},${r},${s}`);
        return {text: digits(weight(state.f, k)), marks: join({hot: k === state.k})};
      },
      here: () => state.k >= 0 && V.entries[state.k][1] === c ? V.entries[state.k].slice(2) : [0, 0],
      point: (r, s) => point(entryAt.get(`${c},${r},${s}`)),
    };
  },
  row: () => strip((k, at) => ({
    text: digits(pixel(state.n, at.c, at.i, at.j)),
    source: isInside(at.i, at.j) ? [state.n, at.c, at.i, at.j].join(",") : "padding",
    isPadding: !isInside(at.i, at.j),
  })),
  column: () => strip((k, at) => ({
    text: digits(weight(state.f, k)),
    source: (isLast ? [["u", 2], ["v", 3], ["c", 1]] : [["c", 1], ["u", 2], ["v", 3]])
      .map(([name, part]) => name + (name === "c" ? at.c : V.entries[k][part])).join(","),
    isPadding: false,
  })),
  product: () => strip((k, at) => {
    const x = pixel(state.n, at.c, at.i, at.j), w = weight(state.f, k);
    return {text: digits(x * w), source: `${digits(x)} · ${digits(w)}`, isPadding: !isInside(at.i, at.j)};
  }),
  phi: () => ({
    head: r => row(...shownRows()[0][r]),
    cell(r, k) {
      const [n, a, b] = shownRows()[0][r];
      const {c, i, j} = place(state.f, a, b, k);
      const isRow = n === state.n && a === state.a && b === state.b, isHot = isRow && k === state.k;
      const isSame = !isHot && isInside(i, j) && isHere(n, c, i, j);
      return {
        text: digits(pixel(n, c, i, j)),
        marks: join({pad: !isInside(i, j), row: isRow, col: k === state.k, hot: isHot, same: isSame}),
      };
    },
    here: () => [position() - shownRows()[1], Math.max(state.k, 0)],
    choose(r, k) {
      const [n, a, b] = shownRows()[0][r];
      state.k = k;
      output(n, state.f, a, b);
    },
    point: (r, k) => pointInPhi(shownRows()[0][r], k),
    move(r, k) {   // up and down go beyond the rows that are written
      const [, start] = shownRows();
      const [n, a, b] = outputs[Math.min(Math.max(start + r, 0), outputs.length - 1)];
      state.k = Math.min(Math.max(k, 0), V.entries.length - 1);
      output(n, state.f, a, b);
    },
  }),
  w: () => ({
    head: k => qOf(k),
    cell(k, s) {
      const f = filtersShown()[s];
      return {text: digits(weight(f, k)), marks: join({col: f === state.f, hot: f === state.f && k === state.k})};
    },
    here: () => [Math.max(state.k, 0), filtersShown().indexOf(state.f)],
    choose(k, s) {
      state.k = k;
      output(state.n, filtersShown()[s], state.a, state.b);
    },
    point: k => point(k),
  }),
  Y: () => ({
    head: r => row(...shownRows()[0][r]),
    cell(r, s) {
      const [n, a, b] = shownRows()[0][r], f = filtersShown()[s];
      const isOut = n === state.n && a === state.a && b === state.b && f === state.f;
      return {text: digits(result(n, f, a, b)), marks: join({out: isOut})};
    },
    here: () => [position() - shownRows()[1], filtersShown().indexOf(state.f)],
    choose(r, s) {
      const [n, a, b] = shownRows()[0][r];
      output(n, filtersShown()[s], a, b);
    },
    move(r, s) {
      const [n, a, b] = outputs[Math.min(Math.max(shownRows()[1] + r, 0), outputs.length - 1)];
      output(n, filtersShown()[Math.min(Math.max(s, 0), filtersShown().length - 1)], a, b);
    },
  }),
  uses: () => ({
    cell(r, s) {
      const count = facts.uses.counts[r][s];
      return {
        text: thousands(count),
        shade: Math.floor(70 * count / Math.max(facts.uses.most, 1) + 0.5),
        marks: join({hot: imageRows[r] === state.i && imageColumns[s] === state.j}),
      };
    },
    here: () => [clamp(state.i, imageRows) - imageRows[0], clamp(state.j, imageColumns) - imageColumns[0]],
    point: (r, s) => pointAt(state.c, imageRows[r], imageColumns[s]),
  }),
};
function strip(describe) {
  return {
    cell(_, k) {
      const {text, source, isPadding} = describe(k, place(state.f, state.a, state.b, k));
      return {text, source, marks: join({e: true, pad: isPadding, hot: k === state.k})};
    },
    here: () => [0, Math.max(state.k, 0)],
    point: (_, k) => point(k),
    move: (r, k) => point(Math.min(Math.max(k + r, 0), V.entries.length - 1)),
  };
}

// ---- Drawings of the two matrices ----
const path = cells => cells.map(([r, s]) => `M${s} ${r}h1v1h-1z`).join("");
const box = (r, s, height, width) => `M${s} ${r}h${width}v${height}h-${width}z`;
const layerOutputs = filters.flatMap(f => rowsA.flatMap(a => columnsB.map(b => [f, a, b])));
const layerPixels = channels.flatMap(c => imageRows.flatMap(i => imageColumns.map(j => [c, i, j])));
if (isLast) {
  layerOutputs.sort((one, other) => one[1] - other[1] || one[2] - other[2] || one[0] - other[0]);
  layerPixels.sort((one, other) => one[1] - other[1] || one[2] - other[2] || one[0] - other[0]);
}
const layerColumn = new Map(layerPixels.map((pixel, s) => [pixel.join(), s]));
const drawings = {
  M() {
    const index = layerOutputs.findIndex(([f, a, b]) => f === state.f && a === state.a && b === state.b);
    const [rows, start] = near(layerOutputs, index, V.drawn_rows);
    const cells = rows.flatMap(([f, a, b], r) => V.entries.flatMap((_, k) => {
      const {c, i, j} = place(f, a, b, k);
      const s = layerColumn.get([c, i, j].join());
      return s === undefined ? [] : [{r, s, k, f, shade: k % 5}];
    }));
    const s = layerColumn.get([state.c, state.i, state.j].join());
    return {
      cells,
      rows,
      marks: {
        row: box(index - start, 0, 1, Math.max(layerPixels.length, 1)),
        line: s === undefined ? "" : box(0, s, rows.length, 1),
        col: path(cells.filter(cell => cell.k === state.k && cell.f === state.f).map(cell => [cell.r, cell.s])),
        hot: s === undefined ? "" : box(index - start, s, 1, 1),
      },
      point: (r, s) => layerPixels[s] && pointAt(...layerPixels[s]),
      choose(r, s) {
        output(state.n, ...rows[r]);
        if (layerPixels[s]) pointAt(...layerPixels[s]);
      },
    };
  },
  Phi() {
    const [rows, start] = near(outputs, position(), V.drawn_rows);
    const cells = rows.flatMap(([n, a, b], r) => V.entries.map((_, k) => {
      const {c, i, j} = place(state.f, a, b, k);
      const inside = isInside(i, j);
      return {r, s: k, shade: inside ? (c + 2 * i + j) % 5 : "pad", isSame: inside && isHere(n, c, i, j)};
    }));
    return {
      cells,
      rows,
      marks: {
        row: box(position() - start, 0, 1, V.entries.length),
        line: state.k < 0 ? "" : box(0, state.k, rows.length, 1),
        same: path(cells.filter(cell => cell.isSame).map(cell => [cell.r, cell.s])),
        hot: state.k < 0 ? "" : box(position() - start, state.k, 1, 1),
      },
      point: (r, s) => pointInPhi(rows[r], s),
      choose(r, s) {
        const [n, a, b] = rows[r];
        state.k = s;
        output(n, state.f, a, b);
      },
    };
  },
};
// ---- Texts ----
function slots() {
  const {n, f, a, b, k, c, i, j} = state;
  const p = row(n, a, b), y = result(n, f, a, b);
  const index = isLast ? [n, a, b, f] : [n, f, a, b];
  const axes = facts.call.y_shape.length;
  const name = `y[${(axes === 2 ? [a, b] : index.slice(4 - axes)).join(", ")}]`;
  const offset = isLast ? ((n * S.OH + a) * S.OW + b) * S.F + f : ((n * S.F + f) * S.OH + a) * S.OW + b;
  const inside = isInside(i, j), where = tuple([n, c, i, j]), value = pixel(n, c, i, j);
  const shown = V.entries.reduce((sum, _, k) => {
    const at = place(f, a, b, k);
    return sum + pixel(n, at.c, at.i, at.j) * weight(f, k);
  }, 0);
  const left = facts.left_out.entries;
  const extent = [["row", AXIS_I, a], ["column", AXIS_J, b]].map(([what, axis, o]) => {
    const first = o * axis.stride - axis.before, last = first + axis.reach - 1;
    const words = first === last ? `${what} ${first}` : `${what}s ${first} to ${last}`;
    return signed(words) + (axis.dilation > 1 && axis.kernel > 1 ? ` in steps of ${axis.dilation}` : "");
  });
  const texts = {
    n, f, a, b, p,
    out: name,
    y: digits(y),
    extent: extent.join(" and "),
    sum: (left ? `The products shown add up to ${digits(shown)}, the other ${thousands(left)} to ${digits(y - shown)}: together ${digits(y)}.`
      : `The sum is ${digits(shown)}.`) + ` conv2d gives ${name} = ${digits(y)}.`,
    lands: `Row ${p} times column ${f % filtersPerGroup} is ${name}, element ${thousands(offset)} of y in memory, counted from 0.`,
  };
  if (inside) {
    const count = readersOnAxis(AXIS_I, i).length * readersOnAxis(AXIS_J, j).length;
    texts.back = `Pixel ${where} stands in Φ ${times(count)}, at (p, q) =`;
    texts.col2im = `Pixel ${where} stands in Φ ${times(count)}, so col2im(im2col(x)) is ${thousands(count)} · ${digits(value)} = ${digits(count * value)} there.`;
    texts.pixels = `Pixel ${where} = ${digits(value)} stands in Φ ${times(count)}${count > 1 ? " (dotted)" : ""}.`;
  } else {
    texts.back = "It is padding: no pixel is read.";
    texts.col2im = "What comes back to the padding is dropped.";
    texts.pixels = "Padding is 0, and is no pixel of the image.";
  }
  if (k < 0) {
    const what = inside ? `Pixel ${where} = ${digits(value)}` : `Padding at ${where}`;
    texts.status = `${what} is not in this patch, row p = ${p}.`;
    texts.entry = "none now";
    texts.where = "The place you point at is not in this patch.";
    texts.flat = "…";
    texts.weights = "No weight lies over this pixel in the chosen output.";
    return texts;
  }
  const [q, , u, v] = V.entries[k];
  const what = `weight (${f}, ${c}, ${u}, ${v})`, w = digits(weight(f, k));
  const count = outputsOfTap(AXIS_I, u) * outputsOfTap(AXIS_J, v);
  texts.status = `Entry q = ${q} of row p = ${p}: ${inside ? `pixel ${where}` : "padding"} = ${digits(value)}, times ${what} = ${w}, is ${digits(value * weight(f, k))}.`;
  texts.entry = `Φ[${p}, ${q}]`;
  texts.where = inside ? `So Φ[${p}, ${q}] is the pixel (n, c, i, j) = ${where}, which is ${digits(value)}.`
    : `(n, c, i, j) = ${where} lies outside the image: padding, an explicit 0.`;
  texts.weights = `W${what.slice(1)} = ${w} stands in M ${times(count)}${count > 1 ? " (dashed)" : ""}.`;
  const wide = AXIS_J.padded, high = AXIS_I.padded, [down, across] = [u * AXIS_I.dilation, v * AXIS_J.dilation];
  const [top, start] = [a * AXIS_I.stride, b * AXIS_J.stride];
  const base = isLast ? ((n * high + top) * wide + start) * S.C : (n * S.C * high + top) * wide + start;
  const ofQ = isLast ? (down * wide + across) * S.C + c : (c * high + down) * wide + across;
  texts.flat = `${thousands(base)} + ${thousands(ofQ)} = ${thousands(base + ofQ)}`;
  return texts;
}
function mapSteps() {   // the numbers and the value of each line of the index map
  const {n, f, a, b, k, c, i, j} = state;
  const p = row(n, a, b), area = S.OH * S.OW, r = p % area;
  const steps = [[`${p} div ${area}`, n], [`${p} mod ${area}`, r], [`${r} div ${S.OW}`, a], [`${r} mod ${S.OW}`, b]];
  if (k < 0) return [...steps, ...Array(5).fill(["…", "…"])];
  const [q, , u, v] = V.entries[k], group = S.G > 1 ? `${groupOf(f)}·${perGroup} + ` : "";
  if (isLast) steps.push([`${q} div ${S.KW * perGroup}`, u], [`(${q} div ${perGroup}) mod ${S.KW}`, v], [`${group}${q} mod ${perGroup}`, c]);
  else steps.push([`${group}${q} div ${S.KH * S.KW}`, c], [`(${q} div ${S.KW}) mod ${S.KH}`, u], [`${q} mod ${S.KW}`, v]);
  for (const [axis, o, tap, at] of [[AXIS_I, a, u, i], [AXIS_J, b, v, j]])
    steps.push([`${o}·${axis.stride} + ${tap}·${axis.dilation} - ${axis.before}`, at]);
  return steps;
}

// ---- Drawing it all ----
const all = selector => [...document.querySelectorAll(selector)];
const tables = all("table[data-panel], .strip[data-panel]").map(el => {
  const isTable = el.tagName === "TABLE";
  const cells = isTable ? [...el.tBodies[0].rows].map(line => [...line.cells].slice(1)) : [[...el.querySelectorAll(".e")]];
  return {el, cells, isTable, heads: isTable ? [...el.tBodies[0].rows].map(line => line.cells[0]) : [], ...panels[el.dataset.panel](el)};
}).filter(panel => panel.cells.length && panel.cells[0].length);
const svgs = all("svg[data-panel]").map(el => ({el, kind: el.dataset.panel, parts: {}, drawing: null}));
const texts = all("[data-t]"), mapRows = all(".map tr"), readersBox = document.querySelector("[data-readers]");
const selects = all("select[data-at]");
const knownRows = new Map(outputs.map(([n, a, b]) => [row(n, a, b), [n, a, b]]));
const knownColumns = new Map(V.entries.map(([q], k) => [q, k]));

function write(el, text) {
  if (el.textContent !== String(text)) el.textContent = text;
}
function draw() {
  for (const panel of tables) {
    panel.cells.forEach((line, r) => {
      if (panel.head) write(panel.heads[r], panel.head(r));
      line.forEach((el, s) => {
        const {text, source, marks, shade} = panel.cell(r, s);
        write(panel.isTable ? el : el.children[1], text);
        if (source !== undefined) write(el.children[2], source);
        if (el.className !== marks) el.className = marks;
        if (shade !== undefined && shade !== null) el.style.setProperty("--v", `${shade}%`);
      });
    });
    const [r, s] = panel.here();
    const el = panel.cells[r]?.[s];
    if (panel.stop !== el) {
      panel.stop?.setAttribute("tabindex", -1);
      el?.setAttribute("tabindex", 0);
      panel.stop = el;
    }
  }
  const now = slots();
  texts.forEach(el => write(el, now[el.dataset.t]));
  mapSteps().forEach(([numbers, value], line) => {
    write(mapRows[line].querySelector("[data-m]"), signed(numbers));
    write(mapRows[line].querySelector("[data-v]"), signed(value));
  });
  all("[data-channel]").forEach((el, c) => write(el, groupOf(state.f) * perGroup + c));
  selects.forEach(el => { el.value = state[el.dataset.at]; });
  all("[data-step]").forEach(el => {
    el.disabled = position() + Number(el.dataset.step) < 0 || position() + Number(el.dataset.step) >= outputs.length;
  });
  // W may be taller than its frame, Φ wider.
  for (const frame of all(".equation .scroll")) {
    const marked = frame.querySelector(".hot, .out");
    if (!marked) continue;
    for (const [edge, length, client, scroll] of [["offsetTop", "offsetHeight", "clientHeight", "scrollTop"], ["offsetLeft", "offsetWidth", "clientWidth", "scrollLeft"]]) {
      const start = marked[edge] - (marked.offsetParent === frame.offsetParent ? frame[edge] : 0);
      if (start < frame[scroll] || start + marked[length] > frame[scroll] + frame[client]) frame[scroll] = start - frame[client] / 2;
    }
  }
  drawReaders();
  svgs.forEach(drawMatrix);
}
function drawReaders() {
  const {n, c, i, j} = state;
  const found = isInside(i, j) ? readersOnAxis(AXIS_I, i).flatMap(([a, u]) =>
    readersOnAxis(AXIS_J, j).map(([b, v]) => [row(n, a, b), columnOf(c % perGroup, u, v)])) : [];
  const most = 64;
  readersBox.replaceChildren(...found.slice(0, most).map(([p, q]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = p === row(n, state.a, state.b) && state.k >= 0 && q === qOf(state.k) ? "pair hot" : "pair";
    button.dataset.p = p;
    button.dataset.q = q;
    button.disabled = !knownRows.has(p) || !knownColumns.has(q);
    button.textContent = `(${p}, ${q})`;
    return button;
  }));
  if (found.length > most) readersBox.append(Object.assign(document.createElement("span"), {textContent: `and ${thousands(found.length - most)} more`}));
}
function drawMatrix(svg) {
  svg.drawing = drawings[svg.kind]();
  const paths = {pad: [], s0: [], s1: [], s2: [], s3: [], s4: []};
  for (const {r, s, shade} of svg.drawing.cells) paths[shade === "pad" ? "pad" : `s${shade}`].push([r, s]);
  const parts = {...Object.fromEntries(Object.entries(paths).map(([name, cells]) => [name, path(cells)])), ...svg.drawing.marks};
  for (const [name, d] of Object.entries(parts)) {
    if (svg.parts[name] === d) continue;
    svg.parts[name] = d;
    const el = svg.el.querySelector(`path.${name}`);
    if (el.getAttribute("d") !== d) el.setAttribute("d", d);
  }
}

// ---- Pointing, choosing, keys ----
const cellOf = new Map();
tables.forEach(panel => panel.cells.forEach((line, r) => line.forEach((el, s) => cellOf.set(el, [panel, r, s]))));
function hit(event) {
  const el = event.target.closest?.("td, .e");
  return el && cellOf.get(el);
}
function at(svg, event) {   // the cell of a drawing under the pointer
  const size = svg.el.getBoundingClientRect(), [, , width, height] = svg.el.getAttribute("viewBox").split(" ").map(Number);
  const r = Math.floor((event.clientY - size.top) / size.height * height), s = Math.floor((event.clientX - size.left) / size.width * width);
  return 0 <= r && r < height && 0 <= s && s < width ? [r, s] : null;
}
let moved = "", pointed = "";
document.addEventListener("pointermove", event => {
  // What is scrolled past under a resting pointer is not pointed at.
  const screen = `${event.screenX},${event.screenY}`;
  if (event.pointerType === "touch" || isKept || screen === moved) return;
  moved = screen;
  const svg = svgs.find(({el}) => el === event.target.closest?.("svg")), where = svg && at(svg, event), found = hit(event);
  const now = where ? `${svg.kind} ${where}` : found ? `${tables.indexOf(found[0])} ${found.slice(1)}` : "";
  if (now === pointed) return;
  pointed = now;
  if (where) svg.drawing.point(...where);
  else if (found?.[0].point) found[0].point(found[1], found[2]);
  else return;
  draw();
});
function keep(isIt) {
  isKept = isIt;
  document.querySelector(".kept").hidden = !isIt;
}
document.addEventListener("click", event => {
  const found = hit(event), svg = svgs.find(({el}) => el === event.target.closest?.("svg")), where = svg && at(svg, event);
  const button = event.target.closest?.("[data-step], .pair");
  const before = [state.n, state.c, state.i, state.j, state.f].join();
  let isEntry = true;
  if (button?.dataset.step) {
    step(Number(button.dataset.step));
    isEntry = false;
  } else if (button) {
    const [n, a, b] = knownRows.get(Number(button.dataset.p));
    state.k = knownColumns.get(Number(button.dataset.q));
    output(n, state.f, a, b);
  } else if (where) svg.drawing.choose(...where);
  else if (found) {
    (found[0].choose ?? found[0].point)(found[1], found[2]);
    isEntry = Boolean(found[0].point);
  } else return;
  if (isEntry) keep(!(isKept && before === [state.n, state.c, state.i, state.j, state.f].join()));
  draw();
  if (found) found[0].stop?.focus({preventScroll: true});
  if (button?.dataset.step && button.disabled) selects.at(-1).focus({preventScroll: true});
});
selects.forEach(el => el.addEventListener("change", () => {
  output(...["n", "f", "a", "b"].map(name => name === el.dataset.at ? Number(el.value) : state[name]));
  draw();
}));
const ARROWS = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]};
document.addEventListener("keydown", event => {
  if (event.key === "Escape") keep(false);
  if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey || event.target.tagName === "SELECT") return;
  const found = hit(event), by = ARROWS[event.key];
  if (found && by) {
    const panel = found[0], [r, s] = panel.here(), [down, right] = by;
    if (panel.move) panel.move(r + down, s + right);
    else {
      const to = [Math.min(Math.max(r + down, 0), panel.cells.length - 1), Math.min(Math.max(s + right, 0), panel.cells[0].length - 1)];
      (panel.choose ?? panel.point)(...to);
    }
    draw();
    panel.stop?.focus();
  } else if (found?.[0].isTable && (event.key === "Enter" || event.key === " ")) event.target.click();
  else if (!found && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    step(by[1]);
    draw();
  } else return;
  event.preventDefault();
});
if (state.k >= 0) point(state.k);
draw();
})();
