"use strict";
// The slider over the threshold, of the report and of the server's page. It stops once between each
// two scores, so that every step of it, by key or pointer, changes the verdict of somebody.
//
// host: an element that is filled. words.judged: what photographs whose truth is known are called;
// words.keep: what has to be known before the threshold is kept. changed: called after every move.
const makeThreshold = (host, words, changed) => {
  const add = (parent, tag, id, text) => {
    const made = document.createElement(tag);
    if (id) made.id = id;
    if (text) made.textContent = text;
    parent.append(made);
    return made;
  };
  const title = add(host, "h3", "judging-title", "Threshold");
  const slide = add(host, "div");
  slide.className = "slide";
  const slider = add(slide, "input", "slider");
  slider.type = "range";
  slider.setAttribute("aria-labelledby", title.id);
  slider.setAttribute("aria-describedby", "told");
  const value = add(slide, "output", "value");
  const reset = add(slide, "button", "reset");
  reset.type = "button";
  const told = add(host, "ul", "told");
  told.setAttribute("aria-live", "polite");
  const keep = add(host, "p", "keep", "To keep it: ");
  const command = add(keep, "code", "command");
  add(keep, "span", "", words.keep);

  let photographs = [], scores = [], own = null, limit = null, model = "", taken = false;

  const judge = (score, at = limit) => {
    if (score === null || at === null) return "unsure";
    return score > at ? "anomaly" : "good";
  };
  // How many distinct scores a threshold calls good: where the slider stands.
  const place = (at) => {
    let low = 0, high = scores.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (scores[middle] <= at) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  // The shortest number from the score below to just under the one above, also in the float32 of
  // a model's file.
  const between = (below, above) => {
    const middle = below + (above - below) / 2;
    for (let digits = 2; digits < 17; digits++) {
      const at = Number(middle.toPrecision(digits));
      if ([at, Math.fround(at)].every((one) => below <= one && one < above)) return at;
    }
    return below;
  };
  const threshold_at = (stop) => {
    if (own !== null && place(own) === stop) return own;
    const low = scores[0], high = scores[scores.length - 1];
    const room = (high - low || Math.abs(high) || 1) * 0.05;
    return between(scores[stop - 1] ?? low - room, scores[stop] ?? high + room);
  };
  const quoted = (name) => (/^[\w.\/+-]+$/.test(name) ? name : `'${name.replaceAll("'", `'\\''`)}'`);
  const short = (number) => Number(number.toPrecision(4)).toString();
  const of = (truth, now, at) => photographs.filter((photo) =>
    (truth === null || photo.truth === truth) && judge(photo.score, at) === now).length;
  const turned = (from, to) => {
    const found = photographs.filter((photo) =>
      judge(photo.score, own) === from && judge(photo.score) === to);
    const known = ["good", "anomaly"].map((truth) => found.filter((photo) => photo.truth === truth).length);
    const really = ["good", "anomalous"].map((name, i) => (known[i] ? `${known[i]} ${name}` : "")).filter(Boolean);
    return [found.length, really.length ? ` (${really.join(" and ")} ${words.judged})` : ""];
  };

  function tell() {
    const bad = of(null, "anomaly"), unsure = of(null, "unsure");
    const lines = [[bad, `of ${photographs.length} are anomalies`]];
    if (unsure && limit !== null) lines.push([unsure, "unsure at any threshold"]);
    const moved = limit !== null && limit !== own;
    if (own !== null && moved) {
      const [up, really_up] = turned("good", "anomaly"), [down, really_down] = turned("anomaly", "good");
      lines.push([up, `good change to anomalies${really_up}`]);
      lines.push([down, `anomalies change to good${really_down}`]);
    }
    const known = photographs.filter((photo) => photo.truth !== null).length;
    if (known && limit !== null) {
      const before = own !== null && moved ? `; ${of("good", "anomaly", own)} and ${of("anomaly", "good", own)} at ${short(own)}` : "";
      const alarms = of("good", "anomaly");
      lines.push([alarms, `false ${alarms === 1 ? "alarm" : "alarms"} and ${of("anomaly", "good")} missed of ${known} ${words.judged}${before}`]);
    }
    told.replaceChildren(...lines.map(([number, text]) => {
      const item = document.createElement("li"), bold = document.createElement("b");
      bold.textContent = number;
      item.append(bold, ` ${text}`);
      return item;
    }));
    value.textContent = limit === null ? "none" : short(limit);
    slider.setAttribute("aria-valuetext", value.textContent);
    reset.textContent = own === null ? "No threshold" : `Back to ${short(own)}`;
    reset.disabled = limit === own;
    keep.hidden = !moved;
    if (moved) command.textContent = `fastalign threshold ${quoted(model)} ${limit} --image`;
  }

  function show() {
    slider.min = "0";
    slider.max = String(scores.length);
    slider.value = String(limit === null ? scores.length : place(limit));
    tell();
  }

  slider.addEventListener("input", () => {
    limit = threshold_at(Number(slider.value));
    tell();
    changed();
  });
  reset.addEventListener("click", () => {
    limit = own;
    show();
    changed();
  });

  return {
    judge,
    tell,
    get limit() { return limit; },
    get own() { return own; },
    // photographs: objects with score (null: unsure at any threshold) and truth ("good", "anomaly"
    // or null); own: the threshold in force, null without one; name: of the model's file.
    take(given, threshold, name) {
      if (!taken || limit === own) limit = threshold;
      taken = true;
      [photographs, own, model] = [given, threshold, name];
      scores = [...new Set(given.map((photo) => photo.score).filter((score) => score !== null))].sort((a, b) => a - b);
      host.hidden = scores.length === 0;
      // Not under the hand that moves it.
      if (slider.matches(":active")) tell();
      else show();
    },
  };
};
