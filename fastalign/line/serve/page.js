"use strict";
(() => {
  const element = (id) => document.getElementById(id);
  const root = document.documentElement;
  const cards = element("cards");
  const threshold = makeThreshold(element("judging"), { judged: "that you judged", keep: "" }, update);
  const shown = new Map();
  let all = { photographs: [] }, changes = "", chosen = null;
  let token = sessionStorage.getItem("token") || "";

  // The token may stand behind # in the address, which browsers do not send.
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    token = given;
    sessionStorage.setItem("token", token);
    history.replaceState(null, "", location.pathname);
  }

  function ask(path, options = {}) {
    const headers = { ...options.headers };
    if (token) headers.Authorization = `Bearer ${token}`;
    return fetch(path, { ...options, headers, cache: "no-store" });
  }

  async function picture(image, path) {
    const answer = await ask(path);
    if (!answer.ok) return;
    const address = URL.createObjectURL(await answer.blob());
    image.onload = () => URL.revokeObjectURL(address);
    image.src = address;
  }

  const plural = (number, one, many) => `${number} ${number === 1 ? one : many}`;

  function make(photo) {
    const card = document.createElement("li");
    card.tabIndex = -1;
    card.dataset.id = photo.id;
    const add = (parent, tag, kind, text) => {
      const made = document.createElement(tag);
      if (kind) made.className = kind;
      if (text) made.textContent = text;
      parent.append(made);
      return made;
    };
    const panel = add(card, "div", "panel");
    const image = add(panel, "img"), heat = add(panel, "img", "heat");
    image.alt = photo.path;
    heat.alt = "";
    // Known before it is loaded, so that nothing jumps.
    panel.style.aspectRatio = `${photo.width} / ${photo.height}`;
    picture(image, `photographs/${photo.id}/photo.jpg`);
    picture(heat, `photographs/${photo.id}/heat.png`);
    const about = add(card, "div", "about");
    add(about, "span", "verdict");
    add(about, "span", "far small");
    add(card, "div", "name", photo.path);
    const time = photo.time.slice(11, 19);
    add(card, "div", "small", `${time}, ${plural(photo.regions, "region", "regions")}`);
    if (photo.reason) add(card, "div", "small", photo.reason);
    add(card, "div", "taken small");
    const choose = add(card, "div", "choose");
    for (const [truth, text] of [["good", "good"], ["anomaly", "anomaly"]]) {
      const button = add(choose, "button", "", text);
      button.type = "button";
      button.dataset.truth = truth;
      button.addEventListener("click", () => {
        select(photo.id, false);
        tell(photo.id, pressed(photo.id) === truth ? null : truth);
      });
    }
    card.addEventListener("click", () => select(photo.id, false));
    return card;
  }

  const pressed = (id) => all.photographs.find((photo) => photo.id === id)?.truth ?? null;

  function update() {
    const hide = element("only").checked, limit = threshold.limit;
    let visible = 0;
    for (const photo of all.photographs) {
      const card = shown.get(photo.id), now = threshold.judge(photo.score);
      card.className = `card ${now}`;
      card.querySelector(".taken").textContent = photo.taken ? "taken into the model" : "";
      card.hidden = hide && now === "good";
      visible += card.hidden ? 0 : 1;
      card.querySelector(".verdict").textContent = now;
      const far = photo.score !== null && limit > 0;
      card.querySelector(".far").textContent = far ? `${(photo.score / limit).toFixed(2)} × threshold` : "";
      for (const button of card.querySelectorAll("[data-truth]")) {
        button.setAttribute("aria-pressed", String(button.dataset.truth === photo.truth));
      }
      card.setAttribute("aria-current", String(photo.id === chosen));
    }
    offer();
    element("count").textContent = all.judged ? `${visible} shown, ${all.judged} judged since the start` : "";
  }

  // False alarms into the model: asked for twice, since verdicts are others then.
  let sure = false, underWay = false;
  function offer() {
    const alarms = all.photographs.filter((photo) => photo.false_alarm).length;
    const button = element("take");
    if (!alarms) sure = false;
    element("taking").hidden = !all.updates || (!alarms && !element("taken").textContent);
    button.hidden = !alarms;
    button.disabled = underWay;
    button.textContent = sure
      ? `Yes, ${plural(alarms, "photograph", "photographs")} marked good, which it called ${alarms === 1 ? "an anomaly" : "anomalies"}`
      : `Take ${plural(alarms, "false alarm", "false alarms")} into the model`;
    element("leave").hidden = !sure || underWay;
  }

  async function takeIn() {
    if (!sure) {
      sure = true;
      offer();
      return;
    }
    [sure, underWay] = [false, true];
    element("taken").textContent = "The model is being updated …";
    offer();
    let told = "no connection";
    try {
      const answer = await ask("update", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: "{}",
      });
      const found = await answer.json();
      told = found.error ?? `${found.taken.length} taken in${found.left_out.length ? `, ${found.left_out.length} left out (${found.left_out[0].reason})` : ""}. ` +
        `Threshold ${found.image_threshold.map((value) => (value === null ? "none" : Number(value.toPrecision(4)))).join(" → ")}. The model as it was: ${found.model_before}`;
    } catch (error) { /* what was said stands */ }
    underWay = false;
    element("taken").textContent = told;
    look();
  }

  function take(document_) {
    all = document_;
    threshold.take(all.photographs, all.image_threshold, all.model);
    changes = String(all.changes);
    element("model").textContent = all.model;
    element("drift").hidden = all.drift.length === 0;
    element("drifts").replaceChildren(...all.drift.map((text) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }));
    element("empty").hidden = all.photographs.length > 0;
    element("kept").textContent = all.kept ? "" : "What you judge here is forgotten when the server ends; start it with --out DIR to keep it.";
    const ids = new Set(all.photographs.map((photo) => photo.id));
    for (const [id, card] of shown) {
      if (!ids.has(id)) {
        card.remove();
        shown.delete(id);
        if (chosen === id) chosen = null;
      }
    }
    for (const photo of [...all.photographs].reverse()) {
      if (!shown.has(photo.id)) {
        const card = make(photo);
        shown.set(photo.id, card);
        cards.prepend(card);
      }
    }
    update();
  }

  async function tell(id, truth) {
    const answer = await ask(`photographs/${id}/feedback`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ truth }),
    });
    if (!answer.ok) return;
    const photo = all.photographs.find((one) => one.id === id);
    if (photo) Object.assign(photo, await answer.json());
    threshold.tell();
    update();
  }

  function select(id, scroll) {
    chosen = id;
    update();
    if (scroll) {
      shown.get(id).focus({ preventScroll: true });
      shown.get(id).scrollIntoView({ block: "nearest" });
    }
  }

  function step(by) {
    const ids = [...cards.children].filter((card) => !card.hidden).map((card) => card.dataset.id);
    if (!ids.length) return;
    const place_ = ids.indexOf(chosen);
    select(ids[place_ < 0 ? 0 : Math.max(0, Math.min(ids.length - 1, place_ + by))], true);
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches?.("input:not([type=checkbox])")) return;
    const key = event.key.toLowerCase();
    const does = {
      arrowright: () => step(1), arrowdown: () => step(1), j: () => step(1),
      arrowleft: () => step(-1), arrowup: () => step(-1), k: () => step(-1),
      g: () => chosen && tell(chosen, "good"),
      a: () => chosen && tell(chosen, "anomaly"),
      u: () => chosen && tell(chosen, null),
      m: () => {
        const off = element("opacity").value === "0";
        element("opacity").value = off ? "100" : "0";
        fade();
      },
    }[key];
    if (!does) return;
    event.preventDefault();
    does();
  });

  function fade() {
    cards.style.setProperty("--heat-opacity", element("opacity").value / 100);
  }
  element("take").addEventListener("click", takeIn);
  element("leave").addEventListener("click", () => {
    sure = false;
    offer();
  });
  element("opacity").addEventListener("input", fade);
  element("only").addEventListener("change", update);
  element("asked").addEventListener("submit", (event) => {
    event.preventDefault();
    token = element("token").value.trim();
    sessionStorage.setItem("token", token);
    look();
  });

  function isDark() {
    const said = root.dataset.theme;
    return said ? said === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }
  function name_theme() { element("theme").textContent = isDark() ? "Light" : "Dark"; }
  element("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.theme);
    name_theme();
  });
  const theme = localStorage.getItem("theme");
  if (theme) root.dataset.theme = theme;
  name_theme();
  element("curl").textContent =
    `curl --data-binary @photo.jpg -H "Content-Type: image/jpeg" "${location.origin}/score?name=photo.jpg"`;

  let waiting = null;
  async function look() {
    clearTimeout(waiting);
    const state = element("state");
    try {
      const answer = await ask(`photographs?changes=${encodeURIComponent(changes)}`);
      element("asked").hidden = answer.status !== 401;
      element("wrong").textContent = answer.status === 401 && token ? "not this one" : "";
      if (answer.status === 200) take(await answer.json());
      const fine = answer.ok;
      state.textContent = fine ? "connected" : answer.status === 401 ? "token needed" : `error ${answer.status}`;
      state.className = fine ? "on" : "off";
      if (fine) root.dataset.ready = String(all.photographs.length);
    } catch (error) {
      state.textContent = "no connection";
      state.className = "off";
    }
    waiting = setTimeout(look, 1000);
  }
  look();
})();
