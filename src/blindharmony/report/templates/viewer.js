(function () {
  "use strict";
  function by(id) { return document.getElementById(id); }
  function trouble(text) {
    by("trouble").textContent = text;
    by("trouble").hidden = false;
    by("stage").hidden = true;
    document.documentElement.dataset.state = "trouble";
  }
  if (!document.createElement("canvas").getContext("webgl2")) {
    trouble("This browser cannot show volumes: it has no WebGL 2, or it is switched off. Open this page in a current Firefox, Chrome, Edge or Safari. The report (.html beside the scan) works without it.");
    return;
  }

  var facts = JSON.parse(by("facts").textContent);
  var names = ["before", "after"], views = [], start = null, low = 0, high = 1;

  function view() {
    return new niivue.Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.25, 0.88, 0.82, 0.75], crosshairWidth: 0.6, crosshairGap: 6,
      isRadiologicalConvention: true, sagittalNoseLeft: true, multiplanarShowRender: niivue.SHOW_RENDER.NEVER, multiplanarPadPixels: 4,
      multiplanarLayout: niivue.MULTIPLANAR_TYPE.GRID, dragMode: niivue.DRAG_MODE.windowing, logLevel: "error",
      dragAndDropEnabled: false, isNearestInterpolation: false, fontColor: [1, 1, 1, 0.9], loadingText: "loading"
    });
  }
  function bytes(id) {
    var text = atob(by(id).textContent), out = new Uint8Array(text.length);
    for (var i = 0; i < text.length; i++) { out[i] = text.charCodeAt(i); }
    by(id).textContent = "";
    return out.buffer;
  }
  function number(value) { return value >= 100 ? value.toFixed(0) : value.toPrecision(3); }

  // Everything follows the first view's crosshair; a click in the second one is carried over to it.
  function place() { return views[0].scene.crosshairPos; }
  function show() {
    var box = views[0].volumes[0], at = place(), voxel = views[0].frac2vox(at);
    // Of the scanner, not of the grid: a scan may lie askew.
    var mm = views[0].frac2mm(at, 0, true);
    names.forEach(function (name, i) {
      var value = views[i].volumes[0].getValue(voxel[0], voxel[1], voxel[2]);
      by("value-" + name).textContent = number(Math.round(value / facts[name].step) * facts[name].step);
      views[i].drawScene();
    });
    by("where").textContent = "x " + mm[0].toFixed(0) + ", y " + mm[1].toFixed(0) + ", z " + mm[2].toFixed(0) + " mm";
    for (var axis = 0; axis < 3; axis++) {
      var input = by("slice-" + axis), count = box.dimsRAS[axis + 1];
      input.max = count;
      input.value = voxel[axis] + 1;
      input.parentNode.querySelector("output").textContent = input.value + " of " + count;
    }
  }
  function move(steps) {
    var dims = views[0].volumes[0].dimsRAS, voxel = views[0].frac2vox(place());
    go(steps.map(function (step, axis) { return Math.max(0, Math.min(dims[axis + 1] - 1, voxel[axis] + step)); }));
  }
  function go(voxel) {
    var dims = views[0].volumes[0].dimsRAS;
    var at = voxel.map(function (index, axis) { return (index + 0.5) / dims[axis + 1]; });
    views.forEach(function (each) { each.scene.crosshairPos = at.slice(); });
    show();
  }
  function zoom(factor) {
    var old = views[0].scene.pan2Dxyzmm, mm = views[0].frac2mm(place());
    var now = Math.max(1, Math.min(12, old[3] * factor));
    // The crosshair stays where it is on the screen; unzoomed, the whole head is in view.
    var pan = [0, 1, 2].map(function (axis) { return now === 1 ? 0 : old[axis] + (old[3] - now) * mm[axis]; });
    views.forEach(function (each) { each.setPan2Dxyzmm([pan[0], pan[1], pan[2], now]); });
    by("zoom").textContent = now.toFixed(1) + " ×";
    show();
  }
  function shade(black, white) {
    low = Math.max(-0.5, Math.min(black, 1.95));
    high = Math.max(low + 0.05, Math.min(white, 2));
    names.forEach(function (name, i) {
      var volume = views[i].volumes[0], top = facts[name].high;
      volume.cal_min = low * top;
      volume.cal_max = high * top;
      views[i].updateGLVolume();
    });
    [["low", low], ["high", high]].forEach(function (pair) {
      by(pair[0]).value = Math.round(100 * pair[1]);
      by(pair[0]).parentNode.querySelector("output").textContent =
        number(pair[1] * facts.before.high) + " | " + number(pair[1] * facts.after.high);
    });
  }
  function shadedBy(i) {
    var volume = views[i].volumes[0], top = facts[names[i]].high;
    shade(volume.cal_min / top, volume.cal_max / top);
  }

  var shown = 1;
  function swap(which) {
    shown = which === undefined ? 1 - shown : which;
    var flip = by("flip").checked;
    by("pictures").classList.toggle("flip", flip);
    by("swap").hidden = !flip;
    by("swap").textContent = "Shown: " + names[shown] + " (swap)";
    names.forEach(function (name, i) { by(name).closest("figure").classList.toggle("under", flip && i !== shown); });
    views.forEach(function (each) { each.resizeListener(); });
    show();
  }
  function again() {
    by("planes").value = "3";
    by("voxels").checked = false;
    by("flip").checked = false;
    views.forEach(function (each) {
      each.setSliceType(3);
      each.setInterpolation(false);
      each.setPan2Dxyzmm([0, 0, 0, 1]);
    });
    by("zoom").textContent = "1.0 ×";
    shade(0, 1);
    swap(1);
    go(start);
  }

  var moves = { ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1] };
  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) { return; }
    var steps = moves[event.key], flat = by("planes").value;
    // Up is up in the picture: in front and side views that is the top of the head; left and right in a side view too.
    if (flat === "1" || flat === "2") {
      if (event.key === "ArrowUp") { steps = [0, 0, 1]; }
      if (event.key === "ArrowDown") { steps = [0, 0, -1]; }
    }
    if (flat === "1" && event.key.indexOf("Page") === 0) { steps = [0, event.key === "PageUp" ? 1 : -1, 0]; }
    if (flat === "2") {
      if (event.key === "ArrowLeft") { steps = [0, 1, 0]; }
      if (event.key === "ArrowRight") { steps = [0, -1, 0]; }
      if (event.key.indexOf("Page") === 0) { steps = [event.key === "PageUp" ? 1 : -1, 0, 0]; }
    }
    if (steps) { move(steps.map(function (step) { return step * (event.shiftKey ? 10 : 1); })); }
    else if (event.key === "+" || event.key === "=") { zoom(1.25); }
    else if (event.key === "-") { zoom(0.8); }
    else if (event.key === "b") { shade(low, high - 0.05); }
    else if (event.key === "B") { shade(low, high + 0.05); }
    else if (event.key === "0") { again(); }
    else if (event.key === " ") {
      if (!by("flip").checked) { by("flip").checked = true; }
      swap();
    } else {
      // The viewer program has keys of its own that would part the two pictures.
      if (event.key !== "Tab") { event.stopPropagation(); }
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  async function begin() {
    for (var i = 0; i < 2; i++) {
      views.push(view());
      await views[i].attachToCanvas(by(names[i]), true);
      by(names[i]).tabIndex = -1;
      await views[i].loadFromArrayBuffer(bytes("data-" + names[i]), names[i] + ".nii.gz");
    }
    views.forEach(function (each, i) {
      each.onLocationChange = function () {
        views[1 - i].scene.crosshairPos = Array.from(each.scene.crosshairPos);
        show();
      };
      by(names[i]).addEventListener("mouseup", function (event) { if (event.button === 2) { shadedBy(i); } });
    });
    var pictures = by("pictures");
    pictures.addEventListener("keydown", key, true);
    pictures.addEventListener("keyup", function (event) { event.stopPropagation(); }, true);
    pictures.addEventListener("wheel", function (event) {
      if (!event.ctrlKey) { return; }
      zoom(event.deltaY < 0 ? 1.25 : 0.8);
      event.preventDefault();
      event.stopPropagation();
    }, { capture: true, passive: false });
    by("planes").addEventListener("change", function () {
      views.forEach(function (each) { each.setSliceType(Number(by("planes").value)); });
    });
    by("flip").addEventListener("change", function () { swap(shown); });
    by("swap").addEventListener("click", function () { swap(); });
    by("closer").addEventListener("click", function () { zoom(1.25); });
    by("farther").addEventListener("click", function () { zoom(0.8); });
    by("reset").addEventListener("click", again);
    by("voxels").addEventListener("change", function () {
      views.forEach(function (each) { each.setInterpolation(by("voxels").checked); });
    });
    [0, 1, 2].forEach(function (axis) {
      by("slice-" + axis).addEventListener("input", function () {
        var voxel = Array.from(views[0].frac2vox(place()));
        voxel[axis] = Number(by("slice-" + axis).value) - 1;
        go(voxel);
      });
    });
    by("low").addEventListener("input", function () { shade(Number(by("low").value) / 100, high); });
    by("high").addEventListener("input", function () { shade(low, Number(by("high").value) / 100); });
    var dims = views[0].volumes[0].dimsRAS;
    start = [0, 1, 2].map(function (axis) { return Math.floor(dims[axis + 1] / 2); });
    again();
    document.documentElement.dataset.state = "ready";
  }
  begin().catch(function (error) {
    trouble("The volumes could not be shown (" + (error && error.message ? error.message : error) + "). The report (.html beside the scan) works without this viewer.");
  });
})();
