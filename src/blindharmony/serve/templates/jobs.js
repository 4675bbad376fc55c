(function () {
  "use strict";
  var h = window.harmonizing, by = h.by, el = h.el, bytes = h.bytes, time = h.time, away = h.away, failed = h.failed, count = h.count, say = h.say, sentence = h.sentence, send = h.send;

  var STATES = { queued: "Waiting", running: "Being harmonized", done: "Done", failed: "Failed", cancelled: "Canceled" };
  var VERDICTS = { good: "✓ Good.", caution: "! Look first.", poor: "✕ Poor." };
  var revision = -1, cards = {}, states = {}, timer = 0, asked = null, current = [];

  function act(method, url) {
    return function () { send(method, url).then(function () { failed(""); }, function (error) { failed(error.message); }).then(look); };
  }
  function link(url, words, name, page) {
    var given = { class: "button", href: url, "aria-label": words + ": " + name };
    if (page) { given.target = "_blank"; given.rel = "noopener"; given["aria-label"] += " (new tab)"; } else given.download = "";
    return el("a", given, [words]);
  }
  // Two pictures on top of each other; how much of the upper one is seen is the slider's.
  function compared(scan) {
    var after = el("img", { src: scan.pictures[1], alt: "", class: "after" });
    var slider = el("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": "Before to after: " + scan.name });
    function cut() { after.style.setProperty("clip-path", "inset(0 0 0 " + slider.value + "%)"); slider.setAttribute("aria-valuetext", (100 - slider.value) + " % harmonized"); }
    slider.addEventListener("input", cut);
    cut();
    return el("figure", { class: "compared" }, [
      el("div", { class: "stacked" }, [el("img", { src: scan.pictures[0], alt: "Slices of " + scan.name + " before and after" }), after]),
      slider,
      el("figcaption", {}, [el("span", {}, ["as it came"]), el("span", {}, ["harmonized"])])
    ]);
  }
  function scanPart(scan, job) {
    var parts = [];
    if (job.scans.length > 1) parts.push(el("h4", {}, [scan.name]));
    if (scan.reason) parts.push(el("p", { class: "wrong" }, [el("b", {}, ["Could not be harmonized. "]), sentence(scan.reason, scan.remedy)]));
    if (scan.headline) parts.push(el("p", { class: "result" }, [el("span", { class: "mark " + scan.verdict }, [VERDICTS[scan.verdict] || ""]), scan.headline]));
    if (scan.pictures && scan.pictures.length === 2) parts.push(compared(scan));
    if (scan.warnings && scan.warnings.length) parts.push(el("details", {}, [
      el("summary", {}, [count(scan.warnings.length, "warning")]),
      el("ul", { class: "warnings" }, scan.warnings.map(function (w) { return el("li", {}, [w]); }))
    ]));
    if (scan.files.length) {
      parts.push(el("p", { class: "row" }, [
        scan.report && link(scan.report, "Open report", scan.name, true),
        scan.viewer && link(scan.viewer, "Compare before and after", scan.name, true),
        job.scans.length === 1 && link(job.zip, "Download results", scan.name, false)
      ]));
      parts.push(el("details", {}, [
        el("summary", {}, ["Single files"]),
        el("ul", { class: "files" }, scan.files.map(function (file) {
          return el("li", {}, [el("a", { href: file.url, download: "" }, [file.name]), el("span", {}, [file.what + ", " + bytes(file.size)])]);
        }))
      ]));
    }
    return el("div", { class: "scan" }, parts);
  }
  function card(job) {
    var base = "/api/jobs/" + job.id, over = job.state === "done" || job.state === "failed" || job.state === "cancelled", parts = [];
    parts.push(el("div", { class: "job-head" }, [
      el("h3", { tabindex: "-1" }, [job.title]),
      el("span", { class: "state " + job.state }, [STATES[job.state]]),
      el("span", { class: "job-meta" }, ["to " + job.target + (job.together ? ", as one scanner" : "") + (job.state === "done" ? ", in " + time(job.finished - job.started) : "")]),
      el("span", { class: "acts" }, [
        !over && el("button", { type: "button", class: "button quiet", "aria-label": "Cancel " + job.title, onclick: act("POST", base + "/cancel") }, ["Cancel"]),
        (job.state === "failed" || job.state === "cancelled") && el("button", { type: "button", class: "button", "aria-label": "Try again: " + job.title, onclick: act("POST", base + "/again") }, ["Try again"]),
        over && el("button", { type: "button", class: "button quiet", "aria-label": "Delete " + job.title, onclick: function () { ask(job); } }, ["Delete"])
      ])
    ]));
    if (job.state === "running") parts.push(el("div", { class: "going" }, [
      el("progress", { max: 1, value: 0, "aria-label": "Progress of " + job.title }),
      el("p", {}, [el("span", { class: "stage" }), el("span", { class: "figures" })])
    ]));
    if (job.state === "queued") parts.push(el("p", { class: "note before" }));
    if (job.reason) parts.push(el("p", { class: "wrong" }, [el("b", {}, ["Failed. "]), sentence(job.reason, job.remedy)]));
    if (over && job.state !== "cancelled" && !job.reason) job.scans.forEach(function (scan) { parts.push(scanPart(scan, job)); });
    if (job.zip && job.scans.length > 1) parts.push(el("p", { class: "row" }, [link(job.zip, "Download results of all", job.title, false)]));
    return el("li", { class: "job", "data-state": job.state, "data-job": job.id }, parts);
  }
  function move(job, made) {
    if (job.state === "running") {
      made.querySelector("progress").value = job.share;
      made.querySelector(".stage").textContent = job.stage;
      made.querySelector(".figures").textContent = Math.round(100 * job.share) + " %, " + time(Date.now() / 1000 - job.started) + ", about " + time(job.left) + " left";
    }
    if (job.state === "queued") made.querySelector(".before").textContent = (job.before ? count(job.before, "job") + " before it." : "It is next.") + " Done in about " + time(job.left) + ".";
  }
  function announce(job) {
    var old = states[job.id];
    states[job.id] = job.state;
    if (!old || old === job.state) return;
    var why = job.state === "failed" ? ". " + sentence(job.reason || job.scans[0].reason || "", job.remedy || job.scans[0].remedy || "") : "";
    say(job.title + ": " + STATES[job.state].toLowerCase() + why);
  }
  function show(jobs) {
    var list = by("list"), there = {};
    current = jobs;
    jobs.forEach(function (job, place) {
      there[job.id] = true;
      var still = JSON.stringify([job.state, job.finished, job.scans]), known = cards[job.id];
      if (!known || known.still !== still) {
        var made = card(job), held = known && known.made.contains(document.activeElement);
        if (known) known.made.replaceWith(made);
        cards[job.id] = known = { made: made, still: still };
        if (held) made.querySelector("h3").focus();
        announce(job);
      }
      if (list.children[place] !== known.made) list.insertBefore(known.made, list.children[place] || null);
      move(job, known.made);
    });
    Object.keys(cards).forEach(function (id) {
      if (there[id]) return;
      cards[id].made.remove();
      delete cards[id];
      delete states[id];
    });
    by("none").hidden = jobs.length > 0;
    by("all").hidden = jobs.filter(function (job) { return job.zip; }).length < 2;
  }
  function look() {
    clearTimeout(timer);
    var mine = asked = {};
    send("GET", "/api/jobs?after=" + revision).then(function (found) {
      away("");
      if (found.jobs) { revision = found.revision; h.scanSeconds = found.scan_seconds; h.expect(); show(found.jobs); }
      else current.forEach(function (job) { move(job, cards[job.id].made); });
    }, function (error) {
      revision = -1;
      away(error instanceof TypeError ? "The program behind this page is not running. Nothing is lost: start it again, and this page goes on." : error.message);
    }).then(function () {
      if (asked !== mine) return;
      var active = current.some(function (job) { return job.state === "running" || job.state === "queued"; });
      timer = setTimeout(look, document.hidden ? 5000 : active ? 1000 : 3000);
    });
  }
  document.addEventListener("visibilitychange", function () { if (!document.hidden) look(); });

  var doomed = null;
  function ask(job) {
    doomed = job;
    by("ask-words").textContent = job.title + ": the copy of the scan kept here" + (job.zip ? " and its results are" : " is") + " removed. Your own files are not touched.";
    by("ask").showModal();
  }
  by("ask-no").addEventListener("click", function () { by("ask").close(); });
  by("ask-yes").addEventListener("click", function () {
    by("ask").close();
    if (!doomed) return;
    send("DELETE", "/api/jobs/" + doomed.id).then(function () { failed(""); say(doomed.title + ": deleted"); }, function (error) { failed(doomed.title + " was not deleted. " + error.message); })
      .then(function () { by("jobs-title").focus(); look(); });
  });
  h.look = look;
  look();
})();
