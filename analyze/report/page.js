"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  // Okabe and Ito's palette, with a marker per colour: nothing is told by colour alone.
  const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F"];
  const MARKERS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star"];
  const CHANCE = "#9aa4ad";  // what is no better than guessing
  const FONT = { family: "Inter, Helvetica Neue, Segoe UI, Roboto, Arial, sans-serif", size: 13, color: "#1b1f24" };
  const DIMS = ["target", "layer", "selection", "shots", "l2"];
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const MOST = 40;  // lines of one plot
  const SHARES = new Set(["accuracy", "balanced_accuracy", "top5_accuracy", "macro_f1", "exact_match"]);
  const narrow = () => window.innerWidth < 640;
  const chosen = { study: 0, metric: null, x: "fraction", by: "selection", target: null, layer: null, selection: null, shots: null, l2: null };
  const shown = (v, metric) => v === null || v === undefined ? "not measured" : SHARES.has(metric) ? (100 * v).toFixed(1) + "%" : v.toPrecision(4);
  const percent = (v) => shown(v, "accuracy");
  const fade = (hex, alpha) => {
    const n = parseInt(hex.slice(1), 16);
    return `rgba(${n >> 16},${(n >> 8) & 255},${n & 255},${alpha})`;
  };
  /* plotly reads tags and links out of labels: a name is text. */
  const text = (name) => String(name).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/\s+/g, " ");
  const short = (name, most) => { const t = String(name); return t.length <= most ? t : t.slice(0, most / 2) + "…" + t.slice(-most / 2 + 1); };
  const label = (name, most = narrow() ? 34 : 60) => text(short(name, most));

  function axis(title, extra) {
    return Object.assign({ title: { text: title, standoff: 10 }, gridcolor: "#e6e9ec", zeroline: false, tickangle: 0, ticks: "outside",
      tickcolor: "#9aa4ad", linecolor: "#57606a", automargin: true, fixedrange: narrow() }, extra || {});
  }
  function fractionAxis(values) {
    const ticks = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1].filter((t) => t >= 0.9 * Math.min(...values));
    const shownTicks = narrow() || ticks.length > 9 ? ticks.filter((t) => /^[15]/.test(t.toExponential())) : ticks;
    return axis("neurons kept", { type: "log", tickvals: shownTicks, ticktext: shownTicks.map((t) => 100 * t >= 1 ? Math.round(100 * t) + "%" : +(100 * t).toFixed(3) + "%") });
  }
  function layout(x, y, extra) {
    return Object.assign({ font: FONT, paper_bgcolor: "#fff", plot_bgcolor: "#fff", margin: { l: 12, r: 12, t: 12, b: 12 },
      xaxis: x, yaxis: y, hovermode: "closest", dragmode: narrow() ? false : "zoom",
      hoverlabel: { font: Object.assign({}, FONT, { color: "#fff" }) },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 } } }, extra || {});
  }
  const BELOW_BUTTONS = { margin: { l: 12, r: 12, t: 36, b: 12 } };
  const config = { responsive: true, displaylogo: false, displayModeBar: narrow() ? false : "hover", modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg" } };
  /* Many names would leave no room for the curves: then the legend stands below, and the plot grows by it. */
  function draw(id, traces, shape) {
    if (!window.Plotly) {
      const script = document.createElement("script");
      script.textContent = document.getElementById("plotly").textContent;
      document.head.append(script);
    }
    const box = document.getElementById(id);
    if (!box.dataset.height) box.dataset.height = box.clientHeight;
    const names = traces.filter((t) => t.showlegend !== false && t.name).map((t) => t.name.length);
    const perRow = Math.max(1, Math.floor(box.clientWidth / (46 + 7 * Math.max(1, ...names))));
    const rows = names.length > 1 ? Math.ceil(names.length / perRow) : 0;
    let height = +box.dataset.height;
    if (rows > 3) {
      height += 27 * rows;
      shape.legend = Object.assign({}, shape.legend, { y: (shape.xaxis.tickangle ? -0.34 : -0.18) * 460 / height - 0.02, yanchor: "top", maxheight: 30 * rows + 40 });
    } else if (rows && !narrow()) {
      shape.margin = Object.assign({}, shape.margin, { t: 36 + 21 * rows });  // the buttons stand above the names
    }
    box.style.height = height + "px";
    Plotly.react(id, traces, Object.assign({ height: height }, shape), config);
  }

  const study = () => data.studies[chosen.study];
  const metrics = (s) => Object.keys(s.scores);
  const metric = () => metrics(study()).includes(chosen.metric) ? chosen.metric : metrics(study())[0];
  /* Position of the chosen value in a study, which may have other layers or shots than the one chosen. */
  function position(s, dim, value) {
    const at = s.coords[dim].indexOf(value === undefined ? chosen[dim] : value);
    if (at >= 0) return at;
    if (dim === "l2") return s.best_l2;
    if (dim === "layer") return s.coords.layer.length - 1;
    const usual = s.coords[dim].indexOf({ selection: "random", shots: "all", target: "label" }[dim]);
    return Math.max(usual, 0);
  }
  const cellOf = (s, where) => DIMS.reduce((at, dim) => at * s.coords[dim].length + (where[dim] ?? position(s, dim)), 0);
  const sizes = (s, where) => s.n[where.layer ?? position(s, "layer")];

  /* The cells that are lines: one per results, metric, or value of a dimension. */
  function lines(by) {
    if (by === "results") return data.studies.filter((s) => metrics(s).includes(metric())).map((s) => ({ s, m: metric(), where: {}, name: s.name }));
    if (by === "metric") return metrics(study()).map((m) => ({ s: study(), m, where: {}, name: m }));
    return study().coords[by].map((value, i) => ({ s: study(), m: metric(), where: { [by]: i }, name: by === "shots" || by === "l2" ? `${by} ${value}` : value }));
  }
  /* Mean, low and high of a line along x, with what hovering says. */
  function along(line, x) {
    const { s, m, where } = line, scores = s.scores[m], f = s.fraction.length;
    const take = (cell, i) => {
      const mean = scores.mean[cell * f + i];
      return { mean, low: scores.low ? scores.low[cell * f + i] : mean, high: scores.high ? scores.high[cell * f + i] : mean };
    };
    const band = (p) => p.low === p.high || p.low === null ? "" : ` [${shown(p.low, m)}, ${shown(p.high, m)}]`;
    const points = [];
    if (x === "fraction") {
      const cell = cellOf(s, where), n = sizes(s, where);
      s.fraction.forEach((v, i) => { const p = take(cell, i); points.push({ x: v, ...p, text: `${n[i]} of ${n[n.length - 1]} neurons (${percent(v)})<br><b>${shown(p.mean, m)}</b>${band(p)}` }); });
    } else {
      s.coords[x].forEach((v, i) => { const p = take(cellOf(s, { ...where, [x]: i }), f - 1); points.push({ x: text(v), ...p, text: `${x} ${text(v)}<br><b>${shown(p.mean, m)}</b>${band(p)}` }); });
    }
    return points.filter((p) => p.mean !== null);
  }
  /* A line through means with its interval as a band of the same colour. */
  function band(points, name, index) {
    const colour = COLOURS[index % COLOURS.length], turn = Math.floor(index / COLOURS.length), xs = points.map((p) => p.x), t = label(name);
    const wide = points.some((p) => p.low !== null && p.high !== null && p.low !== p.high);
    return [
      ...(wide ? [{ x: xs.concat(xs.slice().reverse()), y: points.map((p) => p.high).concat(points.map((p) => p.low).reverse()), fill: "toself", fillcolor: fade(colour, 0.16),
        line: { width: 0 }, mode: "lines", hoverinfo: "skip", showlegend: false, legendgroup: t }] : []),
      { x: xs, y: points.map((p) => p.mean), name: t, legendgroup: t, mode: "lines+markers", line: { color: colour, width: 2.2, dash: DASHES[turn % DASHES.length] },
        marker: { symbol: MARKERS[(index + turn) % MARKERS.length], size: 7, color: colour, line: { color: "#fff", width: 1 } },
        text: points.map((p) => p.text), hovertemplate: "%{text}<extra>" + label(name, 80) + "</extra>" },
    ];
  }
  const measured = (x) => lines(chosen.by).map((l) => ({ name: l.name, points: along(l, x) })).filter((l) => l.points.length).slice(0, MOST);
  const full = (value) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: value, y1: value, line: { color: "#57606a", width: 1.2, dash: "dash" } });
  const zip = (x, mean, low, high, say) => x.map((v, i) => ({ x: v, mean: mean[i], low: low[i] ?? mean[i], high: high[i] ?? mean[i], text: say(i) })).filter((p) => p.mean !== null && p.mean !== undefined);

  const plots = {
    scores() {
      const x = chosen.x, found = measured(x), m = metric();
      const traces = found.flatMap((l, j) => band(l.points, l.name, j));
      const whole = x === "fraction" && chosen.by === "selection" ? study().at.full_score[cellOf(study(), {})] : null;
      const mark = whole !== null && m === metrics(study())[0];
      draw("plot-scores", traces, layout(x === "fraction" ? fractionAxis(study().fraction) : axis({ layer: "", shots: "training rows per class", l2: "l2" }[x], { type: "category", tickangle: x === "layer" ? -30 : 0 }),
        axis(text(m.replace(/_/g, " ")), SHARES.has(m) ? { tickformat: ".0%" } : {}),
        mark ? { shapes: [full(whole)], annotations: [{ xref: "paper", x: 0, y: whole, yanchor: "bottom", xanchor: "left", text: "full layer " + shown(whole, m), showarrow: false, font: { size: 12, color: "#57606a" } }] } : {}));
    },
    redundancy() {
      const by = chosen.by === "metric" ? "selection" : chosen.by;
      const cells = lines(by).slice(0, MOST);
      draw("plot-dr", cells.flatMap((l, j) => {
        const size = DIMS.reduce((n, dim) => n * l.s.coords[dim].length, 1), cell = cellOf(l.s, l.where);
        const of = (key) => data.deltas.map((_, i) => l.s.dr[key][i * size + cell]);
        const mean = of("dr"), low = of("dr_low"), high = of("dr_high");
        const points = zip(data.deltas, mean, low, high, (i) => mean[i] === null ? "" : `delta ${data.deltas[i]}<br><b>DR ${mean[i].toFixed(3)}</b>` + (low[i] === null ? "" : ` [${low[i].toFixed(3)}, ${high[i].toFixed(3)}]`));
        return points.length ? band(points, l.name, j) : [];
      }), layout(axis("delta: share of the full score to keep"), axis("DR: share of neurons that can go", { range: [-0.02, 1.02] })));
      const x = chosen.x === "fraction" ? ["shots", "l2", "layer"].find((d) => study().coords[d].length > 1) : chosen.x;
      document.getElementById("along-body").hidden = !x;
      if (x) {
        draw("plot-along", lines(by === x ? "selection" : by).slice(0, MOST).flatMap((l, j) => {
          const cells = l.s.coords[x].map((_, i) => cellOf(l.s, { ...l.where, [x]: i })), of = (key) => cells.map((c) => l.s.at[key][c]);
          const points = zip(l.s.coords[x].map(text), of("dr"), of("dr_low"), of("dr_high"), (i) => `${x} ${text(l.s.coords[x][i])}<br><b>DR ${of("dr")[i]}</b>: ${of("critical_mass")[i]} neurons`);
          return points.length ? band(points, l.name, j) : [];
        }), layout(axis({ layer: "", shots: "training rows per class", l2: "l2" }[x], { type: "category", tickangle: x === "layer" ? -30 : 0 }), axis(`DR at delta ${data.delta}`, { range: [-0.02, 1.02] })));
      }
      /* The frontier of the chosen results' task: scores of different tasks do not compete. */
      const p = data.pareto, targets = study().coords.target, several = targets.length > 1;
      const task = [study().task, several ? targets[position(study(), "target")] : ""].filter(Boolean).join(": ");
      const here = p.dr.map((_, i) => i).filter((i) => p.task[i] === task);
      const nameOf = (i) => p.study[i] + " / " + p.layer[i] + (p.at_chance[i] ? " (at chance)" : "");
      const clouds = [...new Set(here.map(nameOf))].map((g, j) => {
        const own = here.filter((i) => nameOf(i) === g), guesses = p.at_chance[own[0]], colour = guesses ? CHANCE : COLOURS[j % COLOURS.length];
        return { x: own.map((i) => p.dr[i]), y: own.map((i) => p.score[i]), name: label(g), mode: "lines+markers", line: { color: colour, width: 1.2, dash: guesses ? "dot" : "solid" },
          marker: { symbol: own.map((i) => MARKERS[j % MARKERS.length] + (p.frontier[i] ? "" : "-open")), size: own.map((i) => p.frontier[i] ? 11 : 8), color: colour },
          text: own.map((i) => `delta ${p.delta[i]}: ${p.critical_mass[i]} neurons<br>DR ${p.dr[i].toFixed(3)}, score <b>${shown(p.score[i], metrics(study())[0])}</b>` + (p.frontier[i] ? "<br>on the frontier" : "") + (guesses ? "<br>no better than guessing: not compared" : "")),
          hovertemplate: "%{text}<extra>" + label(g, 80) + "</extra>" };
      });
      draw("plot-pareto", clouds, layout(axis("DR: share of neurons that can go"), axis("score that is left", SHARES.has(metrics(study())[0]) ? { tickformat: ".0%" } : {})));
    },
    classes() {
      const s = study(), at = position(s, "layer"), c = s.classes[at], x = s.fraction;
      const confused = s.confusion[at];
      document.getElementById("classes-body").hidden = !c;
      document.getElementById("classes-none").hidden = !!(c || confused);
      document.getElementById("confusion-body").hidden = !confused;
      if (confused) {
        const names = confused.names.map((n) => label(n, 24)), rows = confused.counts.map((r) => { const n = r.reduce((a, b) => a + b, 0); return r.map((v) => n ? v / n : null); });
        draw("plot-confusion", [{ type: "heatmap", z: rows, x: names, y: names, zmin: 0, zmax: 1, colorscale: "Cividis", colorbar: { tickformat: ".0%", thickness: 12 },
          customdata: confused.counts, hovertemplate: "true %{y}, predicted %{x}<br><b>%{z:.1%}</b> (%{customdata} samples)<extra></extra>" }],
          layout(axis("predicted", { type: "category", tickangle: -90 }), axis("true", { type: "category", autorange: "reversed" }), BELOW_BUTTONS));
      }
      if (!c) return;
      const curve = (name) => zip(x, c[name], c[name + "_low"], c[name + "_high"], (i) => `${sizes(s, {})[i]} neurons (${percent(x[i])})<br><b>${c[name][i] === null ? "" : c[name][i].toFixed(3)}</b>`);
      const measures = { gini: "Gini index", coefficient_of_variation: "coefficient of variation" };
      draw("plot-spread", Object.keys(measures).flatMap((name, j) => band(curve(name), measures[name], j)),
        layout(fractionAxis(x), axis("spread over classes", { rangemode: "tozero" })));
      const traces = c.names.map((name, i) => ({ x, y: c.accuracy[i], name: label(name, 30), mode: "lines+markers", showlegend: i < 5,
        line: { color: i < 5 ? COLOURS[i] : "#c3cad1", width: i < 5 ? 2.2 : 1 }, marker: { size: i < 5 ? 6 : 3, symbol: i < 5 ? MARKERS[i] : "circle" },
        hovertemplate: "%{y:.1%}<extra>" + label(name, 80) + "</extra>" }));
      traces.push({ x, y: c.worst_accuracy, name: "worst class at that size", mode: "lines", line: { color: "#000", width: 2, dash: "dot" },
        hovertemplate: "%{y:.1%}<extra>worst class</extra>" });
      draw("plot-classes", traces.reverse(), layout(fractionAxis(x), axis("accuracy of the class", { tickformat: ".0%" }), { legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", traceorder: "reversed", font: { size: 12 } } }));
      const h = c.hardest, names = h.class.map((n) => label(n, 30)).reverse();
      draw("plot-hardest", [{ type: "bar", orientation: "h", y: names.map((_, i) => i), x: h.loss.slice().reverse(), marker: { color: "#D55E00" }, text: names, textposition: "none",
        error_x: { type: "data", symmetric: false, array: h.loss.map((v, i) => h.loss_high[i] - v).reverse(), arrayminus: h.loss.map((v, i) => v - h.loss_low[i]).reverse(), color: "#1b1f24" },
        hovertemplate: "%{text}: loses <b>%{x:.1%}</b><extra></extra>" }],
        layout(axis(`accuracy lost at ${percent(c.at)} of the layer`, { tickformat: ".0%" }), axis("", { tickvals: names.map((_, i) => i), ticktext: names }), BELOW_BUTTONS));
    },
    calibration() {
      const s = study(), found = s.calibration[position(s, "layer")];
      document.getElementById("calibration-none").hidden = !!found;
      document.getElementById("calibration-body").hidden = !found;
      if (!found) return;
      const traces = found.flatMap((c, j) => {
        const all = c.count.reduce((a, b) => a + b, 0), n = sizes(s, {})[s.fraction.indexOf(+c.fraction.toPrecision(5))];
        const points = zip(c.confidence, c.accuracy, c.low, c.high, (i) => `said ${percent(c.confidence[i])}, right <b>${percent(c.accuracy[i])}</b><br>${c.count[i]} samples`);
        const bins = c.count.map((_, i) => (i + 0.5) / c.count.length);
        return [...band(points, `${n.toLocaleString("en")} neurons: ECE ${c.ece.toFixed(3)}`, j),
          { x: bins, y: c.count.map((v) => v / all), mode: "lines", line: { color: COLOURS[j], width: 1.2, dash: "dot", shape: "hvh" }, showlegend: false, hovertemplate: "%{y:.1%} of the samples<extra></extra>" }];
      });
      draw("plot-calibration", traces, layout(axis("probability of the predicted class", { range: [0, 1.01], tickformat: ".0%" }), axis("share that is right", { range: [0, 1.02], tickformat: ".0%" }),
        { shapes: [{ type: "line", x0: 0, x1: 1, y0: 0, y1: 1, line: { color: "#57606a", width: 1.2, dash: "dash" } }] }));
    },
    layers() {
      const s = study(), m = metrics(s)[0], f = s.fraction.length;
      const share = s.coords.layer.map((_, i) => { const cell = cellOf(s, { layer: i }), whole = s.at.full_score[cell]; return s.fraction.map((_, j) => { const v = s.scores[m].mean[cell * f + j]; return v === null || !whole ? null : v / whole; }); });
      draw("plot-layers", [{ type: "heatmap", z: share, y: s.coords.layer.map((n) => label(n, 30)), x: s.fraction.map((v) => +(100 * v).toPrecision(2) + "%"),
        colorscale: "Cividis", zmax: 1, colorbar: { title: { text: "of full", side: "right" }, tickformat: ".0%", thickness: 12 }, xgap: 1, ygap: 1,
        hovertemplate: "%{y}, %{x} of neurons<br><b>%{z:.1%}</b> of the layer's full score<extra></extra>" }],
        layout(axis("neurons kept", { type: "category", tickangle: narrow() ? -90 : 0, tickfont: { size: 11 } }), axis("", { type: "category" }), BELOW_BUTTONS));
    },
    similarity() {
      const c = study().cka;
      document.getElementById("similarity-none").hidden = !!c;
      document.getElementById("similarity-body").hidden = !c;
      if (!c) return;
      const names = { cka: "subset and full layer", cka_debiased: "subset and full layer, debiased", cka_pair: "two subsets of one size" };
      draw("plot-cka", Object.keys(names).filter((k) => c[k]).flatMap((k, j) => band(zip(c.fraction, c[k].mean, c[k].low, c[k].high, (i) => `${percent(c.fraction[i])} of ${text(c.layer)}<br><b>CKA ${c[k].mean[i]}</b>`), names[k], j)),
        layout(fractionAxis(c.fraction), axis("linear CKA", { range: [0, 1.03] })));
    },
    neurons() {
      const a = study().attribution;
      document.getElementById("neurons-none").hidden = !!a;
      document.getElementById("neurons-body").hidden = !a;
      if (!a) return;
      const order = a.change.map((_, i) => i).sort((i, j) => a.change[j] - a.change[i]);
      const side = (name, keep, colour) => ({ x: order.map((_, r) => r + 1), y: order.map((i) => keep(a.change[i]) ? a.change[i] : 0), name: `${name}: ${percent(a.change.filter(keep).length / a.change.length)}`,
        mode: "lines", fill: "tozeroy", line: { width: 0.5, color: colour }, text: order.map((i) => text(a.names[i])), hovertemplate: "%{text}: %{y:.5f}<extra></extra>" });
      draw("plot-neurons", [side("degrading", (v) => v > 0, COLOURS[1]), side("helping", (v) => v < 0, COLOURS[0])],
        layout(axis(`${text(a.layer)}, ${text(a.probe)}: most degrading first`), axis("change of " + text(a.metric))));
    },
  };

  /* Tabs: arrow keys, Home and End move; a panel's plots are drawn when it is first seen, at its real width. */
  const tabs = [...document.querySelectorAll('[role="tab"]')];
  const panelOf = (tab) => document.getElementById(tab.getAttribute("aria-controls"));
  const current = () => tabs.find((t) => t.getAttribute("aria-selected") === "true");
  function show(tab, focus) {
    for (const other of tabs) {
      const on = other === tab;
      other.setAttribute("aria-selected", on);
      other.tabIndex = on ? 0 : -1;
      panelOf(other).hidden = !on;
    }
    if (focus) { tab.focus(); tab.scrollIntoView({ inline: "nearest", block: "nearest" }); }
    fill(tab.dataset.plot);
    if (tab.dataset.plot) plots[tab.dataset.plot]();
  }
  /* The address follows a reader's choice only: written while the page opens, it would scroll past the title. */
  function choose(tab, focus) {
    show(tab, focus);
    history.replaceState(null, "", "#" + panelOf(tab).id);
  }
  tabs.forEach((tab, i) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      choose(tabs[(to + tabs.length) % tabs.length], true);
    });
  });

  /* What a tab lets one choose: nothing that has one value, and not what its lines or its axis run over. */
  const NAMES = { study: "Results", metric: "Score", x: "Against", by: "Lines", target: "Target", layer: "Layer", selection: "Selection", shots: "Shots", l2: "l2" };
  const AXES = { fraction: "neurons kept", layer: "layer", shots: "shots", l2: "l2" };
  function options(key) {
    const s = study();
    if (key === "study") return data.studies.map((t, i) => [i, t.name]);
    if (key === "metric") return metrics(s).map((m) => [m, m.replace(/_/g, " ")]);
    if (key === "x") return Object.entries(AXES).filter(([k]) => k === "fraction" || s.coords[k].length > 1);
    if (key === "by") {
      const found = DIMS.filter((d) => d === "selection" || s.coords[d].length > 1).filter((d) => d !== chosen.x).map((d) => [d, d]);
      if (data.studies.length > 1) found.push(["results", "results"]);
      if (metrics(s).length > 1) found.push(["metric", "score"]);
      return found;
    }
    return s.coords[key].map((v, i) => [v, key === "layer" ? `${v} (${s.n[i][s.n[i].length - 1]})` : v]);
  }
  const KEYS = { scores: ["study", "metric", "x", "by", ...DIMS], redundancy: ["study", "x", "by", ...DIMS], classes: ["study", "layer"], calibration: ["study", "layer"],
    layers: ["study", "target", "selection", "shots", "l2"], similarity: ["study"], neurons: ["study"] };
  function fill(tab) {
    const box = document.getElementById("choose"), s = study();
    for (const dim of DIMS) if (!s.coords[dim].includes(chosen[dim])) chosen[dim] = s.coords[dim][position(s, dim)];
    if (!options("x").some(([k]) => k === chosen.x)) chosen.x = "fraction";
    if (!options("by").some(([k]) => k === chosen.by)) chosen.by = options("by")[0][0];
    chosen.metric = metric();
    const free = (key) => !(key === chosen.by && (tab === "scores" || tab === "redundancy")) && !(key === chosen.x && tab === "scores");
    const keys = (KEYS[tab] || []).filter((key) => free(key) && options(key).length > 1);
    box.replaceChildren(...keys.map((key) => {
      const list = document.createElement("select"), words = document.createElement("label");
      list.id = key;
      list.replaceChildren(...options(key).map(([value, name]) => new Option(short(name, 60), value)));
      list.value = chosen[key];
      list.addEventListener("change", () => { chosen[key] = key === "study" ? +list.value : list.value; show(current()); const again = document.getElementById(key); if (again) again.focus(); });
      words.append(NAMES[key] + " ", list);
      return words;
    }));
    box.hidden = !keys.length;
  }
  if (study().coords.selection.length === 1) chosen.by = data.studies.length > 1 ? "results" : DIMS.find((d) => study().coords[d].length > 1) || "selection";
  show(tabs.find((t) => "#" + panelOf(t).id === location.hash) || tabs[0]);
})();
