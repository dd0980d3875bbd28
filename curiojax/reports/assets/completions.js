"use strict";
// The list of questions: filters, order, pages, and what is open.
(() => {
  const { read, make, element, completions: index, verdictNames, fillQuestion } = globalThis.curiojax;
  const PAGE = 50;
  const at = (name) => document.getElementById(`list-${name}`);
  const list = at("items"), more = at("more"), found = at("found");
  const several = index.models.length > 1;
  const blocks = new Map(), texts = new Map(), rows = new Map();
  let hits = [], visible = PAGE, searching = 0;

  const count = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
  const block = (i) => {
    if (!blocks.has(i)) blocks.set(i, read(`question-${i}`));
    return blocks.get(i);
  };

  // What the search looks at: that of the question, and that of every sample.
  const textsOf = (i) => {
    if (!texts.has(i)) {
      const { prompt, truth, s } = block(i);
      const low = (...parts) => parts.filter((part) => part !== null).join("\n").toLowerCase();
      texts.set(i, {
        question: low(index.questions[i].id, prompt, truth),
        samples: s.map((samples) => samples.map((sample) =>
          low(sample.extracted, sample.pieces ? sample.pieces.join("") : sample.text))),
      });
    }
    return texts.get(i);
  };

  const VERDICT = {
    any: ["Any", () => true],
    not_correct: ["Not correct", ([verdict]) => verdict !== "correct"],
  };
  for (const [code, name] of index.verdicts) {
    VERDICT[code] = [name, code === "truncated" ? ([, cut]) => cut === 1 : ([verdict]) => verdict === code];
  }

  const least = (values) => values.length ? Math.min(...values) : Infinity;
  const most = (values) => values.length ? Math.max(...values) : -Infinity;
  // Of all samples, whatever the verdicts that are asked for.
  const share = (_, i) => {
    const facts = modelsShown().flatMap((model) => index.questions[i].s[model]);
    return facts.filter(([verdict]) => verdict === "correct").length / facts.length;
  };
  const lengths = (facts) => facts.map((fact) => fact[2]);
  const entropies = (facts) => facts.map((fact) => fact[3]).filter((value) => value !== null);
  // Name, key by which the smallest comes first, and the sample that has it.
  const SORT = {
    question: ["Question", null],
    longest: ["Longest response", (facts) => -most(lengths(facts)), ([, , n], facts) => n === most(lengths(facts))],
    shortest: ["Shortest response", (facts) => least(lengths(facts)), ([, , n], facts) => n === least(lengths(facts))],
    uncertain: ["Highest mean entropy", (facts) => -most(entropies(facts)), ([, , , h], facts) => h === most(entropies(facts))],
    certain: ["Lowest mean entropy", (facts) => least(entropies(facts)), ([, , , h], facts) => h === least(entropies(facts))],
    hardest: ["Fewest correct first", share],
    easiest: ["Most correct first", (facts, i) => -share(facts, i)],
  };

  const right = (question, model) => question.s[model].some(([verdict]) => verdict === "correct");
  const COMPARE = { any: ["All questions", () => true] };
  index.models.forEach((name, model) => {
    COMPARE[`only-${model}`] = [`Only ${name} right`, (answers) => answers.every((a, i) => a === (i === model))];
  });
  COMPARE.all = [index.models.length === 2 ? "Both right" : "All right", (answers) => answers.every((a) => a)];
  COMPARE.none = ["None right", (answers) => answers.every((a) => !a)];

  const option = (value, text) => {
    const made = make("option", text);
    made.value = value;
    return made;
  };
  const fillSelect = (name, pairs) => {
    if (at(name)) at(name).append(...pairs.map(([value, text]) => option(value, text)));
  };
  const everyFact = index.questions.flatMap((question) => question.s.flat());
  const withCount = (key) => [key, `${VERDICT[key][0]} (${everyFact.filter(VERDICT[key][1]).length.toLocaleString("en")})`];
  fillSelect("model", [["any", "All models"], ...index.models.map((name, i) => [String(i), name])]);
  fillSelect("benchmark", [["any", "All benchmarks"], ...index.benchmarks.map((name, i) => [String(i), name])]);
  fillSelect("verdict", Object.keys(VERDICT).filter((key) => everyFact.some(VERDICT[key][1])).map(withCount));
  fillSelect("compare", Object.entries(COMPARE).map(([key, [name]]) => [key, name]));
  const hasEntropy = everyFact.some((fact) => fact[3] !== null);
  fillSelect("sort", Object.entries(SORT)
    .filter(([key]) => hasEntropy || !key.endsWith("certain"))
    .map(([key, [name]]) => [key, name]));

  const value = (name) => at(name) ? at(name).value : "any";
  const modelsShown = () => value("model") === "any" ? index.models.map((_, i) => i) : [Number(value("model"))];

  // The samples of a question that the filters leave, as [model, place]; null if the question goes.
  const matching = (i, models, text) => {
    const question = index.questions[i];
    if (value("benchmark") !== "any" && question.b !== Number(value("benchmark"))) return null;
    if (value("compare") !== "any") {
      if (question.s.some((facts) => !facts.length)) return null;
      const answers = index.models.map((_, model) => right(question, model));
      if (!COMPARE[value("compare")][1](answers)) return null;
    }
    const fits = VERDICT[value("verdict")][1];
    let left = models.flatMap((model) =>
      question.s[model].map((fact, place) => [model, place, fact]).filter(([, , fact]) => fits(fact)));
    if (text && left.length && !textsOf(i).question.includes(text)) {
      left = left.filter(([model, place]) => textsOf(i).samples[model][place].includes(text));
    }
    return left.length ? { i, left, facts: left.map(([, , fact]) => fact) } : null;
  };

  // What each model shows first: of the samples that match, the one that the order looks at.
  const firstSamples = ({ i, left, facts }) => index.questions[i].s.map((_, model) => {
    const own = left.filter((entry) => entry[0] === model);
    const sorted = SORT[value("sort")][2];
    const best = sorted && own.find(([, , fact]) => sorted(fact, facts));
    return best ? best[1] : own.length ? own[0][1] : 0;
  });

  const range = (values, digits) => {
    const show = (v) => v.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
    const low = show(least(values)), high = show(most(values));
    return low === high ? low : `${low}\u2013${high}`;
  };

  const marks = (hit, model) => {
    const question = index.questions[hit.i];
    const facts = question.s[model];
    const kept = new Set(hit.left.filter((entry) => entry[0] === model).map((entry) => entry[1]));
    const line = element("span", "marks");
    if (several) {
      const name = element("span", "model", element("i", index.dots[model]), index.models[model]);
      line.append(name);
    }
    const signs = element("span", "signs");
    signs.setAttribute("aria-hidden", "true");
    facts.forEach(([verdict], place) => {
      const sign = make("span", verdictNames.get(verdict).mark, `sign v-${verdict}`);
      sign.classList.toggle("faint", !kept.has(place));
      sign.title = verdictNames.get(verdict).name;
      signs.append(sign);
    });
    const correct = facts.filter(([verdict]) => verdict === "correct").length;
    const words = facts.length === 0 ? "no sample"
      : facts.length === 1 ? verdictNames.get(facts[0][0]).name : `${correct} of ${facts.length} correct`;
    line.append(signs, make("span", words, "hint"));
    return line;
  };

  const row = (hit) => {
    if (!rows.has(hit.i)) {
      const item = element("li", "item"), button = element("button", "head"), body = element("div", "body");
      button.type = "button";
      body.id = `list-body-${hit.i}`;
      body.hidden = true;
      button.setAttribute("aria-controls", body.id);
      button.setAttribute("aria-expanded", "false");
      item.append(element("h3", "", button), body);
      const state = { item, button, body, open: false, hit };
      button.addEventListener("click", () => {
        state.open = !state.open;
        state.chosen = null;
        show(state);
      });
      rows.set(hit.i, state);
    }
    const state = rows.get(hit.i), question = index.questions[hit.i];
    state.hit = hit;
    const models = modelsShown();
    const head = question.head ?? "The question is not published.";
    const shown = models.flatMap((model) => question.s[model]);
    const numbers = [`${range(lengths(shown), 0)} tokens`];
    if (entropies(shown).length) numbers.push(`${range(entropies(shown), 2)} nats`);
    state.button.replaceChildren(
      element("span", "name", make("b", index.benchmarks[question.b]), " ", make("span", question.id, "id")),
      make("span", numbers.join(", "), "hint numbers"),
      make("span", head, question.head === null ? "excerpt hint" : "excerpt"),
      element("span", several || question.s[models[0]].length > 12 ? "all line" : "all", ...models.map((model) => marks(hit, model))),
    );
    return state;
  };

  const show = (state) => {
    const { item, button, body, hit, open } = state;
    item.classList.toggle("open", open);
    button.setAttribute("aria-expanded", String(open));
    body.hidden = !open;
    if (!open) { body.replaceChildren(); return; }
    state.chosen ??= firstSamples(hit);
    fillQuestion(body, index.questions[hit.i], block(hit.i), modelsShown(), state.chosen,
      (model, place) => { state.chosen[model] = place; });
  };

  const render = () => {
    const shown = hits.slice(0, visible).map(row);
    list.replaceChildren(...shown.map(({ item }) => item));
    for (const state of shown) if (state.open) show(state);
    const left = hits.length - shown.length;
    more.hidden = left <= 0;
    more.textContent = `Show ${Math.min(PAGE, left)} more`;
    const samples = hits.reduce((sum, { left: own }) => sum + own.length, 0);
    found.textContent = hits.length
      ? `${count(samples, "completion", "completions")} of ${count(hits.length, "question", "questions")}`
      : "Nothing matches.";
  };

  // A first search reads all of the file's text: in parts, so that typing goes on meanwhile.
  const update = async () => {
    const mine = ++searching;
    const models = modelsShown(), text = at("text").value.trim().toLowerCase();
    const kept = [];
    let began = performance.now();
    for (let i = 0; i < index.questions.length; i++) {
      const hit = matching(i, models, text);
      if (hit) kept.push(hit);
      if (performance.now() - began > 30) {
        found.textContent = `Searching, ${i + 1} of ${count(index.questions.length, "question", "questions")}`;
        await new Promise((resolve) => setTimeout(resolve));
        if (mine !== searching) return;
        began = performance.now();
      }
    }
    const key = SORT[value("sort")][1];
    if (key) {
      const keys = new Map(kept.map((hit) => [hit, key(hit.facts, hit.i)]));
      kept.sort((a, b) => keys.get(a) - keys.get(b) || a.i - b.i);
    }
    hits = kept;
    visible = PAGE;
    for (const state of rows.values()) state.chosen = null;
    render();
  };

  let timer = 0;
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("filters").addEventListener("change", (event) => { if (event.target !== at("text")) update(); });
  at("text").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(update, 200); });
  more.addEventListener("click", () => {
    const next = visible;
    visible += PAGE;
    render();
    list.children[next]?.querySelector("button").focus();
  });
  update();
})();
