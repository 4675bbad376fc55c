(function () {
  "use strict";
  function by(id) { return document.getElementById(id); }
  // Words of strangers become text, never markup.
  function el(tag, given, children) {
    var made = document.createElement(tag);
    Object.keys(given || {}).forEach(function (key) {
      if (key === "class") made.className = given[key];
      else if (key === "onclick") made.addEventListener("click", given[key]);
      else made.setAttribute(key, given[key]);
    });
    (children || []).forEach(function (child) { if (child) made.append(child); });
    return made;
  }
  function bytes(n) { return n < 1e6 ? Math.max(1, Math.round(n / 1e3)) + " kB" : (n / 1e6).toFixed(n < 1e7 ? 1 : 0) + " MB"; }
  function time(s) {
    s = Math.max(0, Math.round(s));
    if (s < 60) return s + " s";
    if (s < 3600) return Math.floor(s / 60) + " min " + (s % 60) + " s";
    return Math.floor(s / 3600) + " h " + Math.floor((s % 3600) / 60) + " min";
  }
  function count(n, word) { return n + " " + word + (n === 1 ? "" : "s"); }
  function say(words) { by("said").textContent = words; }
  function sentence(what, remedy) {
    var text = [what, remedy].filter(Boolean).map(function (t) { return t.charAt(0).toUpperCase() + t.slice(1); }).join(". ");
    return /[.!?]$/.test(text) ? text : text + ".";
  }

  // What a button could not do stays to be read until a button did something.
  function failed(words) { by("failed").textContent = words; by("failed").hidden = !words; }
  function away(words) { by("away").textContent = words; by("away").hidden = !words; }
  function send(method, url, body) {
    var file = body instanceof Blob, kind = file ? "application/octet-stream" : "application/json";
    return fetch(url, { method: method, headers: body ? { "Content-Type": kind } : {}, body: file ? body : body ? JSON.stringify(body) : undefined })
      .then(function (answer) {
        if (answer.status === 204) return {};
        return answer.json().catch(function () { return {}; }).then(function (said) {
          if (answer.ok) return said;
          var trouble = new Error(answer.status === 403 ? "Open the link again that was printed when this page was started." : sentence(said.what || "This did not work", said.remedy || "Load the page again"));
          trouble.gone = answer.status === 404;
          trouble.final = answer.status === 422 || answer.status === 413;
          throw trouble;
        });
      });
  }
  // look and scanSeconds: filled by the part that knows the jobs; expect by the one that adds scans.
  window.harmonizing = { by: by, el: el, bytes: bytes, time: time, count: count, say: say, sentence: sentence, away: away, failed: failed, send: send, look: null, expect: null, scanSeconds: 0 };
})();
