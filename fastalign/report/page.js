"use strict";
(() => {
  const root = document.documentElement;
  const tools = document.getElementById("tools");
  const holder = document.getElementById("cards");
  const cards = [...holder.querySelectorAll(".card")];
  const buttons = [...tools.querySelectorAll("button")];
  const count = document.getElementById("count");

  // Which cards a button shows.
  const accepts = (button) => {
    const { filter, defect } = button.dataset;
    if (defect !== undefined) {
      return (card) => card.dataset.kind === "anomaly" && card.dataset.defect === defect;
    }
    if (filter === "all") return () => true;
    if (filter === "wrong") return (card) => card.classList.contains("wrong");
    if (filter === "good" || filter === "anomaly") return (card) => card.dataset.kind === filter;
    return (card) => card.dataset.verdict === filter;
  };

  let filter = buttons[0];
  const show = (button) => {
    filter = button;
    const wanted = accepts(button);
    let visible = 0;
    for (const card of cards) {
      card.hidden = !wanted(card);
      visible += card.hidden ? 0 : 1;
    }
    for (const other of buttons) {
      const matching = cards.filter(accepts(other)).length;
      other.querySelector("small").textContent = matching;
      other.disabled = matching === 0 && other.dataset.filter !== "all" && other !== button;
      other.hidden = matching === 0 && other.dataset.filter === "unsure";
      other.setAttribute("aria-pressed", String(other === button));
    }
    count.textContent = `${visible} of ${cards.length}`;
  };

  for (const button of buttons) {
    button.append(" ", document.createElement("small"));
    button.addEventListener("click", () => show(button));
  }

  // What the model says of the cards at another threshold.
  const data = JSON.parse(document.getElementById("scores").textContent);
  const labelled = data.images.some(([, label]) => label >= 0);
  const score = (card) => {
    const given = Number(card.dataset.score);
    return Number.isFinite(given) ? given : null;
  };
  const rejudge = () => {
    const { limit } = threshold;
    for (const card of cards) {
      const { truth } = card.dataset, now = threshold.judge(score(card));
      const word = data.words[truth]?.[now] ?? now;
      const wrong = truth !== "" && now !== "unsure" && now !== truth;
      const share = score(card) !== null && limit > 0 ? `: ${(score(card) / limit).toFixed(2)} × threshold` : "";
      const told = card.querySelector(".verdict");
      told.textContent = `${wrong ? "✗ " : ""}${word}${share}`;
      told.classList.toggle("bad", wrong);
      card.classList.toggle("wrong", wrong);
      card.dataset.verdict = word;
      if (!labelled) card.dataset.kind = now === "unsure" ? "unknown" : now;
    }
    const trial = document.querySelector(".trial");
    if (trial) {
      const [low, high, left, right] = ["low", "high", "left", "right"].map((name) => Number(trial.dataset[name]));
      const at = Math.min(1, Math.max(0, (limit - low) / (high - low)));
      trial.setAttribute("transform", `translate(${at * (right - left)} 0)`);
      trial.setAttribute("visibility", limit === threshold.own ? "hidden" : "visible");
    }
    show(filter);
  };
  const threshold = makeThreshold(document.getElementById("judging"), {
    judged: "by their labels",
    keep: labelled ? "Chosen by looking at these images, it says nothing about others." : "",
  }, rejudge);
  const truths = { 0: "good", 1: "anomaly" };
  threshold.take(
    data.images.map(([score, label]) => ({ score, truth: truths[label] ?? null })), data.threshold, data.model);

  const number = (card, key) => Number(card.dataset[key]);
  const orders = {
    rank: (a, b) => number(a, "rank") - number(b, "rank"),
    score: (a, b) => number(b, "score") - number(a, "score"),
    low: (a, b) => number(a, "score") - number(b, "score"),
    name: (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true }),
  };
  document.getElementById("order").addEventListener("change", (event) => {
    holder.append(...cards.sort(orders[event.target.value]));
  });

  const sliders = [...document.querySelectorAll(".opacity")];
  for (const slider of sliders) {
    slider.addEventListener("input", () => {
      root.style.setProperty("--heat-opacity", slider.value / 100);
      for (const other of sliders) other.value = slider.value;
    });
  }

  const photographs = JSON.parse(document.getElementById("photographs").textContent);
  const viewer = document.getElementById("viewer");
  const stage = viewer.querySelector(".stage");
  const sheet = viewer.querySelector(".sheet");
  const picture = viewer.querySelector("img");
  const part = (name) => document.getElementById(`viewer-${name}`);
  let current = null;

  // Fitted to the window, or one pixel of the photograph for one of the screen, at least twice the
  // fitted size, around the point (x, y) of the sheet, each from 0 to 1.
  const zoom = (large, x = 0.5, y = 0.5) => {
    const [width, height] = sheet.size;
    const fitted = Math.min(stage.clientWidth / width, stage.clientHeight / height);
    const scale = large ? Math.max(1, 2 * fitted) : fitted;
    sheet.style.width = `${width * scale}px`;
    sheet.style.height = `${height * scale}px`;
    viewer.classList.toggle("close-up", large);
    part("zoom").textContent = large ? "whole" : "closer";
    stage.scrollTo(x * width * scale - stage.clientWidth / 2, y * height * scale - stage.clientHeight / 2);
  };

  const view = (card) => {
    current = card;
    const look = getComputedStyle(card);
    const [uri, width, height, ownWidth, ownHeight] = photographs[card.dataset.rank] ?? [];
    const lines = card.querySelector("svg");
    const small = look.getPropertyValue("--photo").trim().replace(/^url\(["']?|["']?\)$/g, "");
    picture.src = uri ?? small;
    picture.alt = card.dataset.name;
    sheet.size = uri ? [ownWidth, ownHeight] : [lines.viewBox.baseVal.width, lines.viewBox.baseVal.height];
    sheet.style.setProperty("--heat", look.getPropertyValue("--heat"));
    sheet.querySelector("svg")?.remove();
    sheet.querySelector(".marks")?.remove();
    sheet.append(lines.cloneNode(true));
    const marks = card.querySelector(".marks");
    if (marks) sheet.append(marks.cloneNode(true));
    part("name").textContent = card.dataset.name;
    const verdict = card.querySelector(".verdict");
    part("verdict").textContent = verdict.textContent;
    part("verdict").className = verdict.className;
    const sizes = uri ? `${ownWidth} × ${ownHeight}` : "as a small picture";
    part("size").textContent = uri && width < ownWidth ? `${sizes}, kept as ${width} × ${height}` : sizes;
    if (!viewer.open) viewer.showModal();
    stage.focus();
    zoom(false);
  };

  const step = (by) => {
    const visible = [...holder.querySelectorAll(".card")].filter((card) => !card.hidden);
    view(visible[(visible.indexOf(current) + by + visible.length) % visible.length]);
  };

  for (const card of cards) {
    const panels = card.querySelector(".panels");
    panels.tabIndex = 0;
    panels.addEventListener("click", () => view(card));
    panels.addEventListener("keydown", (event) => {
      if (event.key === "Enter") view(card);
    });
    for (const region of card.querySelectorAll(".regions li")) {
      const look = () => {
        view(card);
        zoom(true, region.dataset.x / 100, region.dataset.y / 100);
      };
      region.tabIndex = 0;
      region.setAttribute("role", "button");
      region.addEventListener("click", look);
      region.addEventListener("keydown", (event) => {
        if (event.key === "Enter") look();
      });
    }
  }
  part("back").addEventListener("click", () => step(-1));
  part("on").addEventListener("click", () => step(1));
  part("close").addEventListener("click", () => viewer.close());
  part("zoom").addEventListener("click", () => zoom(!viewer.classList.contains("close-up")));
  part("lines").addEventListener("change", (event) => viewer.classList.toggle("plain-photo", !event.target.checked));
  part("marks").addEventListener("change", (event) => viewer.classList.toggle("unmarked", !event.target.checked));
  viewer.addEventListener("keydown", (event) => {
    if (event.target.matches("input")) return;
    const large = viewer.classList.contains("close-up");
    if (event.key === "ArrowLeft" && !large) step(-1);
    if (event.key === "ArrowRight" && !large) step(1);
  });
  stage.addEventListener("click", (event) => {
    const box = sheet.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width;
    const y = (event.clientY - box.top) / box.height;
    zoom(!viewer.classList.contains("close-up"), x, y);
  });
  addEventListener("resize", () => {
    if (viewer.open && !viewer.classList.contains("close-up")) zoom(false);
  });

  const theme = document.getElementById("theme");
  theme.addEventListener("click", () => {
    const dark = getComputedStyle(root).colorScheme.trim() === "dark";
    root.dataset.theme = dark ? "light" : "dark";
  });

  theme.hidden = false;
  tools.hidden = false;
  show(buttons[0]);
  root.dataset.ready = String(cards.length);
})();
