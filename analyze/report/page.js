"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  // Okabe and Ito's palette, with a marker per colour: nothing is told by colour alone.
  const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F"];
  const MARKERS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star"];
  const CHANCE = "#9aa4ad";  // what is no better than guessing
  const FONT = { family: "Inter, Helvetica Neue, Segoe UI, Roboto, Arial, sans-serif", size: 13, color: "#1b1f24" };
  const narrow = () => window.innerWidth < 640;
  const chosen = { study: 0, layer: null };
  const percent = (v) => (v === null ? "not measured" : (100 * v).toFixed(1) + "%");
  const fade = (hex, alpha) => {
    const n = parseInt(hex.slice(1), 16);
    return `rgba(${n >> 16},${(n >> 8) & 255},${n & 255},${alpha})`;
  };

  function axis(title, extra) {
    return Object.assign({ title: { text: title, standoff: 10 }, gridcolor: "#e6e9ec", zeroline: false, tickangle: 0, ticks: "outside",
      tickcolor: "#9aa4ad", linecolor: "#57606a", automargin: true, fixedrange: narrow() }, extra || {});
  }
  function fractionAxis(values) {
    const ticks = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1].filter((t) => t >= 0.9 * Math.min(...values));
    const shown = narrow() ? ticks.filter((t) => /^[15]/.test(t.toExponential())) : ticks;
    return axis("neurons kept", { type: "log", tickvals: shown, ticktext: shown.map((t) => 100 * t >= 1 ? Math.round(100 * t) + "%" : +(100 * t).toFixed(3) + "%") });
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
  const draw = (id, traces, shape) => Plotly.react(id, traces, shape, config);

  /* A line through means with its interval as a band of the same colour. */
  function band(x, curve, name, index, text) {
    const colour = COLOURS[index % COLOURS.length];
    const keep = x.map((_, i) => i).filter((i) => curve.mean[i] !== null);
    const xs = keep.map((i) => x[i]), low = keep.map((i) => curve.low[i]), high = keep.map((i) => curve.high[i]);
    return [
      { x: xs.concat(xs.slice().reverse()), y: high.concat(low.slice().reverse()), fill: "toself", fillcolor: fade(colour, 0.16),
        line: { width: 0 }, mode: "lines", hoverinfo: "skip", showlegend: false, legendgroup: name },
      { x: xs, y: keep.map((i) => curve.mean[i]), name: name, legendgroup: name, mode: "lines+markers", line: { color: colour, width: 2.2 },
        marker: { symbol: MARKERS[index % MARKERS.length], size: 7, color: colour, line: { color: "#fff", width: 1 } },
        text: keep.map((i) => text(i)), hovertemplate: "%{text}<extra>" + name + "</extra>" },
    ];
  }
  const hover = (layer, curve) => (i) => `${layer.n[i]} of ${layer.neurons} neurons (${percent(layer.fraction[i])})<br>` +
    `<b>${percent(curve.mean[i])}</b> [${percent(curve.low[i])}, ${percent(curve.high[i])}]`;
  const full = (value) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: value, y1: value, line: { color: "#57606a", width: 1.2, dash: "dash" } });

  const study = () => data.studies[chosen.study];
  const layer = () => study().layers.find((l) => l.name === chosen.layer) || study().layers[study().layers.length - 1];

  const plots = {
    accuracy() {
      const at = layer();
      const traces = at.selections.flatMap((m, j) => band(at.fraction, m, m.name, j, hover(at, m)));
      draw("plot-accuracy", traces, layout(fractionAxis(at.fraction), axis("test accuracy", { tickformat: ".0%" }),
        { shapes: at.full === null ? [] : [full(at.full)],
          annotations: at.full === null ? [] : [{ xref: "paper", x: 0, y: at.full, yanchor: "bottom", xanchor: "left", text: "full layer " + percent(at.full), showarrow: false, font: { size: 12, color: "#57606a" } }] }));
    },
    redundancy() {
      const at = layer();
      const traces = at.selections.flatMap((m, j) => {
        const curve = { mean: m.dr_grid.dr, low: m.dr_grid.dr_low.map((v, i) => v ?? m.dr_grid.dr[i]), high: m.dr_grid.dr_high.map((v, i) => v ?? m.dr_grid.dr[i]) };
        return band(study().deltas, curve, m.name, j, (i) => `delta ${study().deltas[i]}<br><b>DR ${curve.mean[i].toFixed(3)}</b> [${curve.low[i].toFixed(3)}, ${curve.high[i].toFixed(3)}]`);
      });
      draw("plot-dr", traces, layout(axis("delta: share of the full accuracy to keep"), axis("DR: share of neurons that can go", { range: [-0.02, 1.02] })));
      /* The frontier of the chosen results' task: scores of different tasks do not compete. */
      const p = data.pareto, task = p.task[p.study.indexOf(study().name)];
      const here = p.dr.map((_, i) => i).filter((i) => p.task[i] === task);
      const label = (i) => p.study[i] + " / " + p.layer[i] + (p.at_chance[i] ? " (at chance)" : "");
      const clouds = [...new Set(here.map(label))].map((g, j) => {
        const own = here.filter((i) => label(i) === g), guesses = p.at_chance[own[0]], colour = guesses ? CHANCE : COLOURS[j % COLOURS.length];
        return { x: own.map((i) => p.dr[i]), y: own.map((i) => p.score[i]), name: g, mode: "lines+markers", line: { color: colour, width: 1.2, dash: guesses ? "dot" : "solid" },
          marker: { symbol: own.map((i) => MARKERS[j % MARKERS.length] + (p.frontier[i] ? "" : "-open")), size: own.map((i) => p.frontier[i] ? 11 : 8), color: colour },
          text: own.map((i) => `delta ${p.delta[i]}: ${p.critical_mass[i]} neurons<br>DR ${p.dr[i].toFixed(3)}, accuracy <b>${percent(p.score[i])}</b>` + (p.frontier[i] ? "<br>on the frontier" : "") + (guesses ? "<br>no better than guessing: not compared" : "")),
          hovertemplate: "%{text}<extra>" + g + "</extra>" };
      });
      draw("plot-pareto", clouds, layout(axis("DR: share of neurons that can go"), axis("accuracy that is left", { tickformat: ".0%" })));
    },
    classes() {
      const at = layer(), c = at.classes, box = document.getElementById("classes-body");
      box.hidden = !c;
      document.getElementById("classes-none").hidden = !!c;
      if (!c) return;
      const curve = (name) => ({ mean: c[name], low: c[name + "_low"], high: c[name + "_high"] });
      const short = { gini: "Gini index", coefficient_of_variation: "coefficient of variation" };
      draw("plot-spread", Object.keys(short).flatMap((name, j) => band(at.fraction, curve(name), short[name], j,
        (i) => `${layer().n[i]} neurons (${percent(at.fraction[i])})<br><b>${c[name][i].toFixed(3)}</b>`)),
        layout(fractionAxis(at.fraction), axis("spread over classes", { rangemode: "tozero" })));
      const lines = c.names.map((name, i) => ({ x: at.fraction, y: c.accuracy[i], name: name, mode: "lines+markers", showlegend: i < 5,
        line: { color: i < 5 ? COLOURS[i] : "#c3cad1", width: i < 5 ? 2.2 : 1 }, marker: { size: i < 5 ? 6 : 3, symbol: i < 5 ? MARKERS[i] : "circle" },
        hovertemplate: "%{y:.1%}<extra>" + name + "</extra>" }));
      lines.push({ x: at.fraction, y: c.worst_accuracy, name: "worst class at that size", mode: "lines", line: { color: "#000", width: 2, dash: "dot" },
        hovertemplate: "%{y:.1%}<extra>worst class</extra>" });
      draw("plot-classes", lines.reverse(), layout(fractionAxis(at.fraction), axis("accuracy of the class", { tickformat: ".0%" }), { legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", traceorder: "reversed", font: { size: 12 } } }));
      const h = c.hardest, names = h.class.slice().reverse();
      draw("plot-hardest", [{ type: "bar", orientation: "h", y: names, x: h.loss.slice().reverse(), marker: { color: "#D55E00" },
        error_x: { type: "data", symmetric: false, array: h.loss.map((v, i) => h.loss_high[i] - v).reverse(), arrayminus: h.loss.map((v, i) => v - h.loss_low[i]).reverse(), color: "#1b1f24" },
        hovertemplate: "%{y}: loses <b>%{x:.1%}</b><extra></extra>" }],
        layout(axis(`accuracy lost at ${percent(c.at)} of the layer`, { tickformat: ".0%" }), axis("", { type: "category" }), BELOW_BUTTONS));
    },
    layers() {
      const s = study(), all = [...new Set(s.layers.flatMap((l) => l.fraction))].sort((a, b) => a - b);
      const share = (l) => all.map((f) => {
        const m = l.selections.find((m) => m.name === "random") || l.selections[0], i = l.fraction.indexOf(f);
        return i < 0 || m.mean[i] === null || !l.full ? null : m.mean[i] / l.full;
      });
      draw("plot-layers", [{ type: "heatmap", z: s.layers.map(share), y: s.layers.map((l) => l.name), x: all.map((f) => +(100 * f).toPrecision(2) + "%"),
        colorscale: "Cividis", zmax: 1, colorbar: { title: { text: "of full", side: "right" }, tickformat: ".0%", thickness: 12 }, xgap: 1, ygap: 1,
        hovertemplate: "%{y}, %{x} of neurons<br><b>%{z:.1%}</b> of the layer's full accuracy<extra></extra>" }],
        layout(axis("neurons kept", { type: "category", tickangle: narrow() ? -90 : 0, tickfont: { size: 11 } }), axis("", { type: "category" }), BELOW_BUTTONS));
    },
    similarity() {
      const at = study().layers.find((l) => l.cka), none = document.getElementById("similarity-none");
      none.hidden = !!at;
      document.getElementById("similarity-body").hidden = !at;
      if (!at) return;
      const c = at.cka, label = { cka: "subset and full layer", cka_debiased: "subset and full layer, debiased", cka_pair: "two subsets of one size" };
      draw("plot-cka", Object.keys(label).filter((k) => c[k]).flatMap((k, j) => band(c.fraction, c[k], label[k], j,
        (i) => `${percent(c.fraction[i])} of ${at.name}<br><b>CKA ${c[k].mean[i].toFixed(4)}</b>`)),
        layout(fractionAxis(c.fraction), axis("linear CKA", { range: [0, 1.03] })));
    },
  };

  /* Tabs: arrow keys, Home and End move; a panel's plots are drawn when it is first seen, at its real width. */
  const tabs = [...document.querySelectorAll('[role="tab"]')];
  const panelOf = (tab) => document.getElementById(tab.getAttribute("aria-controls"));
  function show(tab, focus) {
    for (const other of tabs) {
      const on = other === tab;
      other.setAttribute("aria-selected", on);
      other.tabIndex = on ? 0 : -1;
      panelOf(other).hidden = !on;
    }
    if (focus) { tab.focus(); tab.scrollIntoView({ inline: "nearest", block: "nearest" }); }
    document.getElementById("choose").hidden = !(tab.dataset.plot && document.getElementById("choose").dataset.useful);
    if (tab.dataset.plot) plots[tab.dataset.plot]();
    history.replaceState(null, "", "#" + panelOf(tab).id);
  }
  tabs.forEach((tab, i) => {
    tab.addEventListener("click", () => show(tab));
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      show(tabs[(to + tabs.length) % tabs.length], true);
    });
  });

  const studies = document.getElementById("study"), layers = document.getElementById("layer");
  function fill() {
    layers.replaceChildren(...study().layers.map((l) => new Option(`${l.name} (${l.neurons})`, l.name)));
    if (!study().layers.some((l) => l.name === chosen.layer)) chosen.layer = study().layers[study().layers.length - 1].name;
    layers.value = chosen.layer;
  }
  studies.replaceChildren(...data.studies.map((s, i) => new Option(s.name, i)));
  const again = () => { fill(); show(tabs.find((t) => t.getAttribute("aria-selected") === "true")); };
  studies.addEventListener("change", () => { chosen.study = +studies.value; again(); });
  layers.addEventListener("change", () => { chosen.layer = layers.value; again(); });
  fill();
  if (data.studies.length > 1 || data.studies.some((s) => s.layers.length > 1)) document.getElementById("choose").dataset.useful = "yes";
  show(tabs.find((t) => "#" + panelOf(t).id === location.hash) || tabs[0]);
})();
