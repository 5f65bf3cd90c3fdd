"use strict";
(() => {
  const root = document.documentElement;
  const tools = document.getElementById("tools");
  const cards = [...document.querySelectorAll(".card")];
  const buttons = [...tools.querySelectorAll("button")];
  const accepts = (button) => (card) => {
    const [name, wanted] = button.dataset.filter.split("=");
    return name === "all" || card.dataset[name] === wanted;
  };
  const show = (button) => {
    const wanted = accepts(button);
    for (const card of cards) card.hidden = !wanted(card);
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
    document.getElementById("count").textContent = `${cards.filter(wanted).length} of ${cards.length}`;
  };
  for (const button of buttons) {
    const badge = document.createElement("small");
    badge.textContent = cards.filter(accepts(button)).length;
    button.append(" ", badge);
    button.disabled = badge.textContent === "0";
    button.addEventListener("click", () => show(button));
  }
  for (const card of cards) {
    const trio = card.querySelector(".trio");
    trio.tabIndex = 0;
    const turn = () => {
      card.classList.toggle("large");
      card.scrollIntoView({ block: "nearest" });
    };
    trio.addEventListener("click", turn);
    trio.addEventListener("keydown", (event) => {
      if (event.key === "Enter") turn();
    });
  }
  document.getElementById("opacity").addEventListener("input", (event) => {
    root.style.setProperty("--heat-opacity", event.target.value / 100);
  });
  const theme = document.getElementById("theme");
  theme.addEventListener("click", () => {
    root.dataset.theme = getComputedStyle(root).colorScheme.trim() === "dark" ? "light" : "dark";
  });
  theme.hidden = false;
  tools.hidden = false;
  show(buttons.find((button) => button.dataset.filter === "changed=yes" && !button.disabled) ?? buttons[0]);
  root.dataset.ready = String(cards.length);
})();
