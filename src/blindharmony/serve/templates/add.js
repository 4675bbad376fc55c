(function () {
  "use strict";
  var h = window.harmonizing, by = h.by, el = h.el, bytes = h.bytes, count = h.count, say = h.say, sentence = h.sentence, send = h.send;

  var most = Number(document.body.dataset.mostScans), largest = Number(document.body.dataset.mostBytes);
  var endings = document.body.dataset.endings.split(" "), chosen = [], busy = false;

  function isScan(file) { var name = file.name.toLowerCase(); return endings.some(function (end) { return name.endsWith(end); }); }
  // As scanners name them: no ending, .dcm, .ima, or numbers and dots.
  function maybeDicom(file) { return /^[^.]+$|\.(dcm|ima)$|^[\d.]+$/i.test(file.name) && file.size > 0; }
  function wrongWith(file) {
    if (!file.slices && !isScan(file))
      return "This is not a scan this page can read. Give files that end in " + endings.join(", ") + ", or a DICOM folder.";
    if (file.size > largest) return "This is larger than " + Math.floor(largest / 1048576) + " MB. Check that it is one scan.";
    if (file.size === 0) return "The file is empty.";
    return "";
  }
  // Of a folder: its scans if it has some, else its files as one DICOM folder.
  function addFolder(name, files) {
    var scans = files.filter(isScan), size = files.reduce(function (sum, file) { return sum + file.size; }, 0);
    add(scans.length ? scans : [{ name: name, size: size, lastModified: files.length, slices: files }]);
  }
  function add(files) {
    files = Array.prototype.slice.call(files);
    var slices = files.filter(function (file) { return !file.slices && !isScan(file) && maybeDicom(file); });
    if (slices.length) {
      addFolder(count(slices.length, "DICOM file"), slices);
      files = files.filter(function (file) { return slices.indexOf(file) < 0; });
      if (!files.length) return;
    }
    files.forEach(function (file) {
      if (chosen.some(function (c) { return c.file.name === file.name && c.file.size === file.size && c.file.lastModified === file.lastModified; })) return;
      chosen.push({ file: file, wrong: wrongWith(file), trouble: "", id: "", share: null });
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
      item.bar.hidden = item.share === null || Boolean(item.wrong || item.trouble);
      return el("li", {}, [
        el("span", { class: "name" }, [item.file.name]),
        el("span", { class: "size" }, [bytes(item.file.size)]),
        busy ? el("span") : el("button", { type: "button", class: "button quiet", "aria-label": "Remove " + item.file.name, onclick: function () { remove(item); } }, ["Remove"]),
        item.wrong || item.trouble ? el("p", { class: "wrong" }, [item.wrong || item.trouble]) : null,
        item.bar
      ]);
    }));
    by("go").disabled = busy || !good.length;
    by("go").textContent = busy ? "Copying…" : good.length > 1 ? "Harmonize " + good.length + " scans" : "Harmonize";
    by("hint").textContent = busy || good.length ? (by("together").checked && good.length === 1 ? "One scan alone cannot be told from its scanner: add more of the same scanner." : expected(good.length)) : "Add a scan first.";
  }
  function expected(number) {
    if (busy || !h.scanSeconds) return "";
    return "It takes about " + h.time(number * h.scanSeconds * (by("together").checked ? 1.6 : 1)) + (current() ? ", after what is waiting." : ".");
  }
  function current() { return document.querySelector('[data-state="queued"], [data-state="running"]') !== null; }
  h.expect = function () {
    var good = chosen.filter(function (c) { return !c.wrong; }).length, now = by("hint").textContent;
    if (good && (!now || now.indexOf("It takes") === 0)) by("hint").textContent = expected(good);
  };
  function progress(item, share) { item.share = share; item.bar.hidden = false; item.bar.value = share; }
  // A DICOM folder goes file by file; the scan is made of it there.
  function uploadFolder(item) {
    var sent = 0;
    return send("POST", "/api/series", { name: item.file.name }).then(function (begun) {
      return item.file.slices.reduce(function (before, slice) {
        return before.then(function () { return send("PUT", "/api/series/" + begun.id, slice); })
          .then(function () { sent += slice.size; progress(item, 0.95 * sent / Math.max(1, item.file.size)); });
      }, Promise.resolve()).then(function () { return send("POST", "/api/series/" + begun.id + "/scan", {}); });
    }).then(function (said) { item.id = said.id; return item; }, function (error) {
      error.gone = false;
      throw error;
    });
  }
  function upload(item) {
    if (item.file.slices) return uploadFolder(item);
    return new Promise(function (resolve, reject) {
      var request = new XMLHttpRequest();
      request.open("PUT", "/api/uploads?name=" + encodeURIComponent(item.file.name));
      request.setRequestHeader("Content-Type", "application/octet-stream");
      request.upload.onprogress = function (event) { progress(item, event.loaded / event.total); };
      request.onerror = function () { reject(new Error("The connection broke off. Press Harmonize to try again.")); };
      request.onload = function () {
        var said = {};
        try { said = JSON.parse(request.responseText); } catch (error) { /* no words of its own */ }
        if (request.status === 201) { item.id = said.id; resolve(item); }
        else {
          var trouble = new Error(sentence(said.what || "This did not work", said.remedy || "Load the page again"));
          trouble.final = request.status === 422 || request.status === 413;
          reject(trouble);
        }
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
    if (together && items.length > most) { by("hint").textContent = "At most " + most + " scans together. Remove some."; say(by("hint").textContent); return; }
    busy = true;
    // A file that is wrong stays wrong; trouble may pass, and whatever had it is tried again.
    items.forEach(function (i) { i.trouble = ""; });
    showChosen();
    items.reduce(function (before, item) {
      return before.then(function () { return item.id ? item : upload(item); })
        .then(function () { return together ? null : start([item]); })
        .catch(function (error) { bad += 1; item.share = null; item[error.final ? "wrong" : "trouble"] = error.message; if (error.gone) item.id = ""; })
        .then(showChosen);
    }, Promise.resolve()).then(function () {
      // A group with a damaged member is its owner's decision: remove it, then press again.
      if (!together || bad) return null;
      return start(items).catch(function (error) { bad += 1; items.forEach(function (i) { i.share = null; if (error.gone) i.id = ""; }); items[0].trouble = error.message; });
    }).then(function () {
      busy = false;
      showChosen();
      var left = chosen.filter(function (c) { return c.wrong || c.trouble; }).length;
      var words = left ? count(left, "file") + " could not be used; see the list above." : count(items.length, "scan") + " added.";
      if (bad && together) words = chosen.some(function (c) { return c.wrong; }) ? "Remove what could not be used, then press Harmonize again." : "Press Harmonize again.";
      by("hint").textContent = left ? words : "";
      say(words);
      (bad ? by("chosen").querySelector("button") : by("jobs-title")).focus();
      h.look();
    });
  });
  by("files").addEventListener("change", function () { add(this.files); this.value = ""; });
  by("folder").addEventListener("change", function () {
    var files = Array.prototype.slice.call(this.files);
    if (files.length) addFolder((files[0].webkitRelativePath || "").split("/")[0] || "DICOM folder", files);
    this.value = "";
  });
  // A dropped folder hands out its files piece by piece.
  function within(entry) {
    return new Promise(function (resolve) {
      if (entry.isFile) { entry.file(function (file) { resolve([file]); }, function () { resolve([]); }); return; }
      var reader = entry.createReader(), found = [];
      (function more() {
        reader.readEntries(function (entries) {
          if (!entries.length) { resolve(Promise.all(found).then(function (lists) { return [].concat.apply([], lists); })); return; }
          entries.forEach(function (inner) { found.push(within(inner)); });
          more();
        }, function () { resolve([]); });
      })();
    });
  }
  function dropped(transfer) {
    var entries = Array.prototype.map.call(transfer.items || [], function (item) { return item.webkitGetAsEntry ? item.webkitGetAsEntry() : null; });
    var folders = entries.filter(function (entry) { return entry && entry.isDirectory; });
    var names = folders.map(function (entry) { return entry.name; });
    var files = Array.prototype.filter.call(transfer.files, function (file) { return names.indexOf(file.name) < 0; });
    if (files.length) add(files);
    folders.forEach(function (entry) { within(entry).then(function (inside) { if (inside.length) addFolder(entry.name, inside); }); });
  }
  by("together").addEventListener("change", showChosen);
  var drop = by("drop");
  ["dragenter", "dragover"].forEach(function (kind) {
    document.addEventListener(kind, function (event) { event.preventDefault(); drop.classList.add("over"); });
  });
  document.addEventListener("dragleave", function (event) { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", function (event) {
    event.preventDefault();
    drop.classList.remove("over");
    if (!busy && event.dataTransfer.files.length) dropped(event.dataTransfer);
  });
  function aboutTarget() { by("about-target").textContent = sentence(by("target").selectedOptions[0].dataset.about); }
  by("target").addEventListener("change", aboutTarget);
  aboutTarget();
})();
