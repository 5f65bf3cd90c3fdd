"use strict";
(() => {
  const root = document.documentElement;
  const tools = document.getElementById("tools");
  const holder = document.getElementById("cards");
  const cards = [...holder.querySelectorAll(".card")];
  const buttons = [...tools.querySelectorAll("button")];
  const count = document.getElementById("count");

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

  const show = (button) => {
    const wanted = accepts(button);
    let visible = 0;
    for (const card of cards) {
      card.hidden = !wanted(card);
      visible += card.hidden ? 0 : 1;
    }
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
    count.textContent = `${visible} of ${cards.length}`;
  };

  for (const button of buttons) {
    const matching = cards.filter(accepts(button)).length;
    const badge = document.createElement("small");
    badge.textContent = matching;
    button.append(" ", badge);
    button.disabled = matching === 0 && button.dataset.filter !== "all";
    button.addEventListener("click", () => show(button));
  }

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

  document.getElementById("opacity").addEventListener("input", (event) => {
    holder.style.setProperty("--heat-opacity", event.target.value / 100);
  });

  for (const card of cards) {
    const panels = card.querySelector(".panels");
    panels.tabIndex = 0;
    panels.addEventListener("click", () => card.classList.toggle("large"));
    panels.addEventListener("keydown", (event) => {
      if (event.key === "Enter") card.classList.toggle("large");
    });
  }

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
