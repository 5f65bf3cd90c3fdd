"use strict";
(() => {
  const element = (id) => document.getElementById(id);
  const root = document.documentElement;
  const cards = element("cards"), slider = element("slider");
  const shown = new Map();
  let all = { photographs: [] }, changes = "", chosen = null, limit = null, scale = [0, 1];
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

  function verdict(photo, at) {
    if (photo.score === null || at === null) return "unsure";
    return photo.score > at ? "anomaly" : "good";
  }

  const plural = (number, one, many) => `${number} ${number === 1 ? one : many}`;
  const short = (number) => Number(number.toPrecision(4)).toString();

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
    const hide = element("only").checked;
    let visible = 0;
    for (const photo of all.photographs) {
      const card = shown.get(photo.id), now = verdict(photo, limit);
      card.className = `card ${now}`;
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
    element("count").textContent = all.judged ? `${visible} shown, ${all.judged} judged since the start` : "";
    retell();
  }

  function retell() {
    const own = all.image_threshold, photos = all.photographs;
    element("judging").hidden = photos.length === 0;
    element("value").textContent = limit === null ? "none" : short(limit);
    const bad = photos.filter((photo) => verdict(photo, limit) === "anomaly").length;
    const lines = [[bad, `of ${photos.length} are anomalies`]];
    if (own !== null && limit !== own) {
      const turned = (from, to) => photos.filter((photo) =>
        verdict(photo, own) === from && verdict(photo, limit) === to).length;
      lines.push([turned("good", "anomaly"), "good change to anomalies"]);
      lines.push([turned("anomaly", "good"), "anomalies change to good"]);
    }
    const said = photos.filter((photo) => photo.truth !== null);
    if (said.length) {
      const wrong = (truth, now) => said.filter((photo) =>
        photo.truth === truth && verdict(photo, limit) === now).length;
      lines.push([wrong("good", "anomaly"), `false alarms and ${wrong("anomaly", "good")} missed of the ${said.length} you judged`]);
    }
    element("told").replaceChildren(...lines.map(([number, text]) => {
      const item = document.createElement("li"), bold = document.createElement("b");
      bold.textContent = number;
      item.append(bold, ` ${text}`);
      return item;
    }));
    const other = limit !== null && limit !== own;
    element("keep").hidden = !other;
    if (other) element("command").textContent = `fastalign threshold ${all.model} ${limit.toPrecision(6)}`;
    element("reset").disabled = own === null || limit === own;
  }

  function place() {
    // The whole scale stays where it is while it suffices, so that the slider does not run away.
    const values = all.photographs.map((photo) => photo.score).filter((score) => score !== null);
    if (all.image_threshold !== null) values.push(all.image_threshold);
    if (!values.length) return;
    const low = Math.min(...values), high = Math.max(...values), room = (high - low || Math.abs(high) || 1) * 0.05;
    if (low < scale[0] || high > scale[1] || changes === "") scale = [low - room, high + room];
    const at = limit === null ? scale[1] : limit;
    slider.value = String(Math.round(1000 * (at - scale[0]) / (scale[1] - scale[0])));
  }

  function take(document_) {
    const first = changes === "";
    all = document_;
    if (first) limit = all.image_threshold;
    place();
    changes = String(all.changes);
    element("model").textContent = all.model;
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
    if (photo) photo.truth = truth;
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
  element("opacity").addEventListener("input", fade);
  element("only").addEventListener("change", update);
  slider.addEventListener("input", () => {
    limit = scale[0] + (scale[1] - scale[0]) * slider.value / 1000;
    update();
  });
  element("reset").addEventListener("click", () => {
    limit = all.image_threshold;
    place();
    update();
  });
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
