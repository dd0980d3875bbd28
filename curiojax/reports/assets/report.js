"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const settings = read("settings");
  const plots = [];
  const hidden = new Set();
  let smoothing = settings.smoothing_points;

  // Centred mean over the neighbours that have a value; a gap stays a gap.
  const smoothed = (values, width) => {
    const half = (width - 1) / 2;
    return values.map((value, i) => {
      if (value === null) return null;
      let sum = 0, count = 0;
      for (let j = Math.max(0, i - half); j <= Math.min(values.length - 1, i + half); j++) {
        if (values[j] !== null) { sum += values[j]; count++; }
      }
      return sum / count;
    });
  };

  const traces = (figure) => figure.data.map((trace) => {
    const smooth = smoothing > 1 && trace.meta.smooth && trace.mode === "lines";
    return { ...trace, visible: !hidden.has(trace.meta.run),
             ...(smooth ? { y: smoothed(trace.y, smoothing) } : {}) };
  });

  const config = { displayModeBar: false, responsive: true, showTips: false, doubleClick: "reset" };
  // Dragging over a chart zooms with a mouse, but must scroll the page under a finger.
  const dragmode = matchMedia("(pointer: fine)").matches ? "zoom" : false;

  const draw = (element, figure) => {
    const layout = structuredClone({ ...figure.layout, dragmode, autosize: true });
    layout.xaxis.unifiedhovertitle ??= { text: "step %{x:.0f}" };
    return Plotly.react(element, traces(figure), layout, config);
  };

  const fitForPrint = (element) => {
    for (const svg of element.querySelectorAll(".main-svg")) {
      const width = svg.getAttribute("width"), height = svg.getAttribute("height");
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      element.style.setProperty("--ratio", `${width} / ${height}`);
    }
  };

  const redraw = () => {
    for (const { element, figure } of plots) draw(element, figure);
    for (const { element, figure } of plots) {
      const all = figure.data.every((trace) => hidden.has(trace.meta.run));
      element.closest(".card").classList.toggle("hidden-run", all);
    }
  };

  const drawAll = async () => {
    for (const [id, figure] of Object.entries(read("figures"))) {
      const element = document.getElementById(id);
      await draw(element, figure);
      fitForPrint(element);
      element.on("plotly_afterplot", () => fitForPrint(element));
      plots.push({ element, figure });
      await new Promise((resolve) => setTimeout(resolve)); // keep the page responsive meanwhile
    }
    document.documentElement.dataset.ready = "true";
  };

  for (const chip of document.querySelectorAll(".chip")) {
    chip.addEventListener("click", () => {
      const run = Number(chip.dataset.run);
      if (hidden.has(run)) hidden.delete(run); else hidden.add(run);
      chip.setAttribute("aria-pressed", String(!hidden.has(run)));
      redraw();
    });
  }
  const smooth = document.getElementById("smooth");
  if (smooth) {
    smooth.addEventListener("change", () => {
      smoothing = smooth.checked ? settings.smoothing_points : 1;
      redraw();
    });
  }

  const make = (tag, text, name) => {
    const element = document.createElement(tag);
    element.textContent = text;
    if (name) element.className = name;
    return element;
  };
  const number = (value, digits) => value.toFixed(digits).replace("-", "\u2212");

  // Shows the numbers of the token in `box` under the pointer or the focus in `panel`; `facts` of a
  // token's index are pairs of a name and a text.
  const tokenBox = (box, panel, facts) => {
    const tokens = box.getElementsByClassName("t");
    let shown = null, reachable = tokens[0];

    const place = () => {
      const at = shown.getClientRects()[0] || shown.getBoundingClientRect();
      const { offsetWidth: width, offsetHeight: height } = panel;
      const left = Math.min(Math.max(8, at.left), document.documentElement.clientWidth - width - 8);
      const above = at.top - height - 8;
      panel.style.left = `${left}px`;
      panel.style.top = `${above >= 8 ? above : at.bottom + 8}px`;
    };
    const indexOf = (token) => Array.prototype.indexOf.call(tokens, token);
    const show = (token) => {
      if (token === shown) return;
      hide();
      shown = token;
      token.classList.add("on");
      const i = indexOf(token);
      const list = document.createElement("dl");
      for (const [label, text] of facts(i)) list.append(make("dt", label), make("dd", text));
      const position = `token ${i + 1} of ${tokens.length}`;
      panel.replaceChildren(make("code", token.textContent.replaceAll(" ", "\u00b7")), make("div", position, "place"), list);
      panel.hidden = false;
      place();
      addEventListener("scroll", place, { passive: true, capture: true });
    };
    const hide = () => {
      removeEventListener("scroll", place, { capture: true });
      if (shown) shown.classList.remove("on");
      shown = null;
      panel.hidden = true;
    };
    const focus = (token) => {
      reachable.tabIndex = -1;
      reachable = token;
      token.tabIndex = 0;
      token.focus();
    };
    const tokenOf = (event) => event.target.closest && event.target.closest(".t");

    box.addEventListener("pointerover", (event) => {
      const token = tokenOf(event);
      if (token && event.pointerType === "mouse") show(token);
    });
    box.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "mouse") return;
      if (box.contains(document.activeElement) && document.activeElement.matches(".t")) {
        show(document.activeElement);
      } else hide();
    });
    box.addEventListener("click", (event) => {
      const token = tokenOf(event);
      if (token) { focus(token); show(token); } else hide();
    });
    box.addEventListener("focusin", (event) => { const t = tokenOf(event); if (t) show(t); });
    box.addEventListener("focusout", hide);
    box.addEventListener("keydown", (event) => {
      const token = tokenOf(event);
      if (!token) return;
      const i = indexOf(token);
      const next = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tokens.length - 1 }[event.key];
      if (event.key === "Escape") hide();
      if (next === undefined || !tokens[next]) return;
      event.preventDefault();
      focus(tokens[next]);
    });
    return hide;
  };

  const tokenView = () => {
    const box = document.getElementById("tokens");
    if (!box) return;
    const data = read("token-data");
    const logProb = (value) => {
      const share = 100 * Math.exp(value);
      const percent = share >= 0.1 ? number(share, 1) : share >= 0.001 ? number(share, 3) : "< 0.001";
      return `${number(value, 2)} (${percent} %)`;
    };
    const rows = [
      ["entropy", "Entropy", (v) => `${number(v, 3)} nats`],
      ["teacher_entropy", "Entropy, teacher", (v) => `${number(v, 3)} nats`],
      ["tau", "Temperature", (v) => number(v, 3)],
      ["weight", "Weight", (v) => number(v, 3)],
      ["log_prob", "Log-probability", logProb],
      ["teacher_log_prob", "Log-prob., teacher", logProb],
    ];
    tokenBox(box, document.getElementById("token-panel"), (i) => rows
      .filter(([field]) => data[field] && data[field][i] !== null)
      .map(([field, label, format]) => [label, format(data[field][i])]));

    for (const input of document.querySelectorAll("input[name=colour]")) {
      input.addEventListener("change", () => {
        box.className = `tokens by-${input.value}`;
        for (const legend of document.querySelectorAll(".legend")) {
          legend.hidden = legend.dataset.mode !== input.value;
        }
      });
    }
  };

  addEventListener("beforeprint", () => {
    for (const block of document.querySelectorAll("details")) block.open = true;
  });
  globalThis.curiojax = { read, make, number, tokenBox };
  tokenView();
  drawAll();
})();
