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

  /* Adding scans */
  var most = Number(document.body.dataset.mostScans), largest = Number(document.body.dataset.mostBytes);
  var endings = document.body.dataset.endings.split(" "), chosen = [], busy = false;

  function wrongWith(file) {
    var name = file.name.toLowerCase();
    if (!endings.some(function (end) { return name.endsWith(end); }))
      return "This is not a scan this page can read. Give files that end in " + endings.join(", ") + "; DICOM folders have to be converted first.";
    if (file.size > largest) return "This is larger than " + Math.floor(largest / 1048576) + " MB. Check that it is one scan.";
    if (file.size === 0) return "The file is empty.";
    return "";
  }
  function add(files) {
    Array.prototype.forEach.call(files, function (file) {
      if (chosen.some(function (c) { return c.file.name === file.name && c.file.size === file.size && c.file.lastModified === file.lastModified; })) return;
      chosen.push({ file: file, wrong: wrongWith(file), id: "", share: null });
    });
    say(count(chosen.length, "scan") + " chosen");
    showChosen();
  }
  function remove(item) {
    if (item.id) send("DELETE", "/api/uploads/" + item.id);
    chosen = chosen.filter(function (c) { return c !== item; });
    showChosen();
    var next = by("chosen").querySelector("button") || by("files");
    next.focus();
  }
  function showChosen() {
    var list = by("chosen"), good = chosen.filter(function (c) { return !c.wrong; });
    list.hidden = !chosen.length;
    list.replaceChildren.apply(list, chosen.map(function (item) {
      item.bar = el("progress", { max: 1, value: item.share || 0, "aria-label": "Copying " + item.file.name });
      item.bar.hidden = item.share === null || Boolean(item.wrong);
      return el("li", {}, [
        el("span", { class: "name" }, [item.file.name]),
        el("span", { class: "size" }, [bytes(item.file.size)]),
        busy ? el("span") : el("button", { type: "button", class: "button quiet", "aria-label": "Remove " + item.file.name, onclick: function () { remove(item); } }, ["Remove"]),
        item.wrong ? el("p", { class: "wrong" }, [item.wrong]) : null,
        item.bar
      ]);
    }));
    by("go").disabled = busy || !good.length;
    by("go").textContent = busy ? "Copying…" : good.length > 1 ? "Harmonize " + good.length + " scans" : "Harmonize";
    by("hint").textContent = busy || good.length ? (by("together").checked && good.length === 1 ? "One scan alone cannot be told from its scanner: add more of the same scanner." : "") : "Add a scan first.";
  }
  function send(method, url, body) {
    return fetch(url, { method: method, headers: body ? { "Content-Type": "application/json" } : {}, body: body ? JSON.stringify(body) : undefined })
      .then(function (answer) {
        if (answer.status === 204) return {};
        return answer.json().catch(function () { return {}; }).then(function (said) {
          if (answer.ok) return said;
          throw new Error(answer.status === 403 ? "Open the link again that was printed when this page was started." : sentence(said.what || "This did not work", said.remedy || "Load the page again"));
        });
      });
  }
  function upload(item) {
    return new Promise(function (resolve, reject) {
      var request = new XMLHttpRequest();
      request.open("PUT", "/api/uploads?name=" + encodeURIComponent(item.file.name));
      request.setRequestHeader("Content-Type", "application/octet-stream");
      request.upload.onprogress = function (event) { item.share = event.loaded / event.total; item.bar.hidden = false; item.bar.value = item.share; };
      request.onerror = function () { reject(new Error("The connection broke off. Press Harmonize to try again.")); };
      request.onload = function () {
        var said = {};
        try { said = JSON.parse(request.responseText); } catch (error) { /* no words of its own */ }
        if (request.status === 201) { item.id = said.id; resolve(item); }
        else reject(new Error(sentence(said.what || "This did not work", said.remedy || "Load the page again")));
      };
      request.send(item.file);
    });
  }
  function start(items) {
    return send("POST", "/api/jobs", { uploads: items.map(function (i) { return i.id; }), target: by("target").value, together: by("together").checked && items.length > 1 })
      .then(function () { chosen = chosen.filter(function (c) { return items.indexOf(c) < 0; }); });
  }
  by("form").addEventListener("submit", function (event) {
    event.preventDefault();
    var items = chosen.filter(function (c) { return !c.wrong; }), together = by("together").checked && items.length > 1, bad = 0;
    if (busy || !items.length) return;
    if (together && items.length > most) { say(""); by("hint").textContent = "At most " + most + " scans together. Remove some."; return; }
    busy = true;
    showChosen();
    items.reduce(function (before, item) {
      return before.then(function () { return item.id ? item : upload(item); })
        .then(function () { return together ? null : start([item]); })
        .catch(function (error) { bad += 1; item.id = ""; item.share = null; item.wrong = error.message; })
        .then(showChosen);
    }, Promise.resolve()).then(function () {
      // A group with a damaged member is its owner's decision: remove it, then press again.
      if (!together || bad) return null;
      return start(items).catch(function (error) { bad += 1; items.forEach(function (i) { i.id = ""; i.share = null; }); items[0].wrong = error.message; });
    }).then(function () {
      busy = false;
      showChosen();
      var words = bad ? count(bad, "scan") + " could not be used; see the list above." : count(items.length, "scan") + " added.";
      if (bad && together) words = "Remove what could not be used, then press Harmonize again.";
      by("hint").textContent = bad ? words : "";
      say(words);
      (bad ? by("chosen").querySelector("button") : by("jobs-title")).focus();
      look();
    });
  });
  by("files").addEventListener("change", function () { add(this.files); this.value = ""; });
  by("together").addEventListener("change", showChosen);
  var drop = by("drop");
  ["dragenter", "dragover"].forEach(function (kind) {
    document.addEventListener(kind, function (event) { event.preventDefault(); drop.classList.add("over"); });
  });
  document.addEventListener("dragleave", function (event) { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", function (event) {
    event.preventDefault();
    drop.classList.remove("over");
    if (!busy && event.dataTransfer.files.length) add(event.dataTransfer.files);
  });
  function aboutTarget() { by("about-target").textContent = sentence(by("target").selectedOptions[0].dataset.about); }
  by("target").addEventListener("change", aboutTarget);
  aboutTarget();

  /* Jobs */
  var STATES = { queued: "Waiting", running: "Being harmonized", done: "Done", failed: "Failed", cancelled: "Cancelled" };
  var VERDICTS = { good: "✓ Good.", caution: "! Check.", poor: "✕ Poor." };
  var revision = -1, cards = {}, states = {}, timer = 0, asked = null, current = [];

  function act(method, url) {
    return function () { send(method, url).catch(function (error) { away(error.message); }).then(look); };
  }
  function link(url, words, name, page) {
    var given = { class: "button", href: url, "aria-label": words + ": " + name };
    if (page) { given.target = "_blank"; given.rel = "noopener"; given["aria-label"] += " (new tab)"; } else given.download = "";
    return el("a", given, [words]);
  }
  function scanPart(scan, job) {
    var parts = [];
    if (job.scans.length > 1) parts.push(el("h4", {}, [scan.name]));
    if (scan.reason) parts.push(el("p", { class: "wrong" }, [el("b", {}, ["Could not be harmonized. "]), sentence(scan.reason, scan.remedy)]));
    if (scan.headline) parts.push(el("p", { class: "result" }, [el("span", { class: "mark " + scan.verdict }, [VERDICTS[scan.verdict] || ""]), scan.headline]));
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
      el("span", { class: "job-meta" }, ["to " + job.target + (job.together ? ", as one scanner" : "") + (job.state === "done" ? ", in " + time(job.finished - job.started) : "")])
    ]));
    if (job.state === "running") parts.push(el("div", { class: "going" }, [
      el("progress", { max: 1, value: 0, "aria-label": "Progress of " + job.title }),
      el("p", {}, [el("span", { class: "stage" }), el("span", { class: "figures" })])
    ]));
    if (job.state === "queued") parts.push(el("p", { class: "note before" }));
    if (job.reason) parts.push(el("p", { class: "wrong" }, [el("b", {}, ["Failed. "]), sentence(job.reason, job.remedy)]));
    if (over && job.state !== "cancelled" && !job.reason) job.scans.forEach(function (scan) { parts.push(scanPart(scan, job)); });
    parts.push(el("p", { class: "row" }, [
      job.zip && job.scans.length > 1 && link(job.zip, "Download results", job.title, false),
      !over && el("button", { type: "button", class: "button quiet", "aria-label": "Cancel " + job.title, onclick: act("POST", base + "/cancel") }, ["Cancel"]),
      (job.state === "failed" || job.state === "cancelled") && el("button", { type: "button", class: "button", "aria-label": "Try again: " + job.title, onclick: act("POST", base + "/again") }, ["Try again"]),
      over && el("button", { type: "button", class: "button quiet", "aria-label": "Delete " + job.title, onclick: function () { ask(job); } }, ["Delete"])
    ]));
    return el("li", { class: "job", "data-state": job.state, "data-job": job.id }, parts);
  }
  function move(job, made) {
    if (job.state === "running") {
      made.querySelector("progress").value = job.share;
      made.querySelector(".stage").textContent = job.stage;
      made.querySelector(".figures").textContent = Math.round(100 * job.share) + " %, " + time(Date.now() / 1000 - job.started);
    }
    if (job.state === "queued") made.querySelector(".before").textContent = job.before ? count(job.before, "job") + " before it." : "It is next.";
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
  function away(words) { by("away").textContent = words; by("away").hidden = !words; }
  function look() {
    clearTimeout(timer);
    var mine = asked = {};
    send("GET", "/api/jobs?after=" + revision).then(function (found) {
      away("");
      if (found.jobs) { revision = found.revision; show(found.jobs); }
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

  /* Deleting is asked about once */
  var doomed = null;
  function ask(job) {
    doomed = job;
    by("ask-words").textContent = job.title + ": the copy of the scan kept here" + (job.zip ? " and its results are" : " is") + " removed. Your own files are not touched.";
    by("ask").showModal();
  }
  by("ask-no").addEventListener("click", function () { by("ask").close(); });
  by("ask-yes").addEventListener("click", function () {
    by("ask").close();
    if (doomed) send("DELETE", "/api/jobs/" + doomed.id).catch(function (error) { away(error.message); }).then(function () { by("jobs-title").focus(); say(doomed.title + ": deleted"); look(); });
  });
  look();
})();
