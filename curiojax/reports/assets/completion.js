"use strict";
// An open question: its prompt, its ground truth, and one sample of every model at a time.
(() => {
  const { read, make, number, tokenBox } = globalThis.curiojax;
  const index = read("completions");
  const names = new Map(index.verdicts.map(([code, name, mark]) => [code, { name, mark }]));
  const panel = document.getElementById("list-panel");
  const CHUNK = 3000; // tokens that are made at once

  const STATUS = {
    ok: "",
    no_answer: "the verifier found no answer",
    unverifiable: "nothing can be compared with this ground truth",
    error: "the verifier failed",
    timeout: "the verifier took too long",
    memory: "the verifier took too much memory",
    crash: "the verifier crashed",
    too_long: "the response is over the size limit of the verifier",
  };
  const FINISH = {
    stop: "",
    length: ", cut at the limit",
    prompt_too_long: "; the prompt does not fit the model\u2019s context",
  };

  const element = (tag, name, ...children) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    made.append(...children);
    return made;
  };

  // Text in a box that the keyboard can scroll.
  const scrolled = (text, label, name) => {
    const made = make("pre", text, name);
    made.tabIndex = 0;
    made.setAttribute("role", "region");
    made.setAttribute("aria-label", label);
    return made;
  };

  // A token's text, with marks where it would otherwise be invisible.
  const mark = (text) => make("i", text, "m");
  const shown = (text) => {
    if (text === "") return [mark("\u2205")];
    if (/^ +$/.test(text)) return [...text].map(() => mark("\u00b7"));
    return text.split(/(?=[\n\t])|(?<=[\n\t])/).flatMap((part) =>
      part === "\n" ? [mark("\u21b5"), part] : part === "\t" ? [mark("\u21e5"), part] : [part]);
  };
  const token = (text, entropy) => {
    const made = document.createElement("span");
    const share = Math.min(entropy / 1000, index.top) / index.top;
    made.className = entropy === null ? "t" : `t e${Math.round(share * (index.bins - 1))}`;
    made.tabIndex = -1;
    if (text.trim() === "" || /[\n\t]/.test(text)) made.append(...shown(text));
    else made.textContent = text;
    return made;
  };

  const response = (sample) => {
    if (!sample.pieces) {
      if (sample.text === null) return make("p", "The response is left out.", "hint");
      return scrolled(sample.text, "Response", "plain");
    }
    const { pieces, entropies } = sample;
    const box = element("div", "tokens by-entropy");
    box.dir = "ltr";
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", `${pieces.length} tokens; arrow keys move from token to token`);
    const add = (start) => {
      const part = document.createDocumentFragment();
      const end = Math.min(start + CHUNK, pieces.length);
      for (let i = start; i < end; i++) part.append(token(pieces[i], entropies[i]));
      box.append(part);
      if (end < pieces.length) setTimeout(() => { if (box.isConnected) add(end); });
    };
    add(0);
    if (pieces.length) box.firstChild.tabIndex = 0;
    tokenBox(box, panel, (i) =>
      entropies[i] === null ? [] : [["Entropy", `${number(entropies[i] / 1000, 3)} nats`]]);
    return box;
  };

  const legend = () => {
    const ticks = [0, index.top / 2].map((tick) => make("span", String(tick)));
    ticks.push(make("span", `\u2265 ${index.top} nats`));
    const caption = "Entropy of the model\u2019s next-token distribution, at temperature 1 over the " +
      "whole vocabulary. Point at, tap or focus a token for its number.";
    return element("div", "legend", element("div", "scale scale-entropy"),
      element("div", "ticks", ...ticks), make("p", caption, "caption"));
  };

  const badge = ([verdict, cut]) => {
    const { name, mark: sign } = names.get(verdict);
    const made = element("span", `badge v-${verdict}`, make("span", sign), ` ${name}`);
    made.firstChild.setAttribute("aria-hidden", "true");
    if (cut && verdict !== "truncated") made.append(", truncated");
    return made;
  };

  const facts = (sample, fact) => {
    const list = document.createElement("dl");
    const row = (name, ...values) => {
      list.append(make("dt", name), element("dd", "", ...values));
    };
    row("Verdict", badge(fact), make("span", ` ${STATUS[sample.status] ?? sample.status}`, "hint"));
    row("Extracted answer", sample.extracted === null ? make("span", "none", "hint") : make("code", sample.extracted));
    row("Length", `${fact[2].toLocaleString("en")} tokens${FINISH[sample.finish] ?? ""}`);
    if (fact[3] !== null) row("Mean entropy", `${number(fact[3], 3)} nats per token`);
    list.className = "facts";
    return list;
  };

  // One model's samples of a question, with the chosen one shown.
  const side = (question, block, model, chosen, keep) => {
    const samples = block.s[model];
    const made = element("section", "side");
    if (index.models.length > 1) {
      const heading = element("h4", "", element("i", index.dots[model]), index.models[model]);
      made.append(heading);
    }
    if (!samples.length) {
      made.append(make("p", "This model has no sample of the question here.", "hint"));
      return made;
    }
    const body = element("div", "");
    const picker = element("div", "picker");
    picker.setAttribute("role", "group");
    picker.setAttribute("aria-label", `Samples of ${index.models[model]}`);
    const show = (i) => {
      keep(i);
      [...picker.children].forEach((button, j) => button.setAttribute("aria-pressed", String(i === j)));
      panel.hidden = true;
      const text = response(samples[i]);
      body.replaceChildren(facts(samples[i], question.s[model][i]), text);
    };
    samples.forEach((sample, i) => {
      const { name, mark: sign } = names.get(question.s[model][i][0]);
      const button = element("button", `pick v-${question.s[model][i][0]}`, `${i + 1}\u2009${sign}`);
      button.type = "button";
      button.setAttribute("aria-label", `Sample ${i + 1}: ${name}`);
      button.addEventListener("click", () => show(i));
      picker.append(button);
    });
    if (samples.length > 1) made.append(picker);
    made.append(body);
    show(chosen);
    return made;
  };

  // Fills `box`; `models` are those shown, `chosen` the sample of each by its index, `keep` is told
  // when the reader takes another.
  const fill = (box, question, block, models, chosen, keep) => {
    const ask = element("div", "ask");
    if (block.prompt === null) {
      const why = `The authors of this benchmark ask not to publish its questions: the prompt and the ground truth of ${question.id} are left out.`;
      ask.append(make("p", why, "hint"));
    } else {
      ask.append(make("h4", "Prompt"), scrolled(block.prompt, "Prompt", ""));
      if (block.truth !== null) {
        ask.append(element("p", "truth", make("span", "Ground truth ", "hint"), make("code", block.truth)));
      }
    }
    const sides = element("div", models.length > 1 ? "sides several" : "sides");
    for (const model of models) {
      sides.append(side(question, block, model, chosen[model], (i) => keep(model, i)));
    }
    box.replaceChildren(ask);
    if (models.some((model) => block.s[model].some((sample) => sample.pieces))) box.append(legend());
    box.append(sides);
  };

  Object.assign(globalThis.curiojax, { completions: index, verdictNames: names, element, fillQuestion: fill });
})();
