(function () {
  "use strict";
  var root = document.documentElement;
  root.classList.add("js");

  function all(selector, act) {
    Array.prototype.forEach.call(document.querySelectorAll(selector), act);
  }

  // One plane at a time; without this script all are shown.
  all("input[data-plane]", function (input) {
    function show() {
      all("[data-view]", function (view) { view.hidden = view.dataset.view !== input.value; });
    }
    input.checked = input.defaultChecked;
    input.addEventListener("change", show);
    if (input.checked) { show(); }
  });

  // Flicker: the scan takes the result's place and gives it back, slower than three times a second.
  all("button[data-flicker]", function (button) {
    var timer = null;
    var pairs = [];
    all(".trio", function (trio) {
      var image = trio.querySelector(".after img");
      var words = trio.querySelector(".after .over");
      var scan = trio.querySelector(".before");
      pairs.push({
        image: image, words: words,
        result: [image.src, words.textContent],
        scan: [scan.querySelector("img").src, scan.querySelector(".over").textContent]
      });
    });
    function put(which) {
      pairs.forEach(function (pair) {
        pair.image.src = pair[which][0];
        pair.words.textContent = pair[which][1];
      });
      root.dataset.shown = which;
    }
    button.addEventListener("click", function () {
      if (timer) {
        clearInterval(timer);
        timer = null;
        put("result");
      } else {
        put("scan");
        timer = setInterval(function () { put(root.dataset.shown === "scan" ? "result" : "scan"); }, 700);
      }
      button.setAttribute("aria-pressed", timer ? "true" : "false");
      button.textContent = timer ? "Stop" : "Flicker scan and result";
    });
  });

  // Slices: every figure shows the same place in the head.
  function slice(plane, value) {
    root.style.setProperty("--at-" + plane, value - 1);
    all('input[data-slice="' + plane + '"]', function (input) {
      input.value = value;
      input.parentNode.querySelector("output").textContent = value + " of " + input.max;
    });
  }
  all("input[data-slice]", function (input) {
    input.addEventListener("input", function () { slice(input.dataset.slice, Number(input.value)); });
    // A browser may remember an earlier position over a reload.
    slice(input.dataset.slice, Number(input.defaultValue));
  });

  all("input[data-toggle]", function (input) {
    input.checked = true;
    input.addEventListener("change", function () {
      all("." + input.dataset.toggle, function (layer) { layer.hidden = !input.checked; });
    });
  });

  all("button[data-copy]", function (button) {
    button.addEventListener("click", function () {
      var range = document.createRange();
      range.selectNodeContents(document.getElementById(button.dataset.copy));
      var selection = window.getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      // The clipboard interface is closed to local files in some browsers; this one is open in all.
      var done = document.execCommand("copy");
      button.textContent = done ? "Copied" : "Selected: now press Ctrl+C";
    });
  });
})();
