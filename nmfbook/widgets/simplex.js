(() => {
  const box = document.currentScript.parentElement, {gram, concentrations, corners} = JSON.parse(box.dataset.view);
  const [slider, told, free, svg, words] = ['[type=range]', 'output', '[type=checkbox]', 'svg', 'p']
    .map(name => box.querySelector(name));
  const state = nmfState('simplex'), first = slider.value;
  const given = {a: [0.45, 0.35, 0.2], z: [0.15, 0.25, 0.6]};  // weights of the rays: activation, sample
  const points = {...given};
  const place = w => [0, 1].map(d => w.reduce((sum, x, k) => sum + x * corners[k][d], 0));
  const area = ([a, b], [c, d], [e, f]) => (c - a) * (f - b) - (e - a) * (d - b);
  const share = w => { const sum = w.reduce((x, y) => x + y); return w.map(x => x / sum); };
  const weights = p => share([0, 1, 2].map(k =>
    Math.max(0, area(...corners.map((c, l) => l == k ? p : c)) / area(...corners))));
  const thousandths = w => w.map(x => Math.round(1000 * x));
  const entropy = p => p.reduce((sum, x) => x > 0 ? sum - x * Math.log2(x) : sum, 0);

  function posterior(a, z, kappa) {
    const dot = gram.map(row => row.reduce((sum, g, k) => sum + g * z[k], 0));
    const length = Math.sqrt(dot.reduce((sum, d, k) => sum + d * z[k], 0));
    const score = dot.map((d, k) => a[k] > 0 ? kappa * d / (length * Math.sqrt(gram[k][k])) : -Infinity);
    const top = Math.max(...score);
    return share(a.map((x, k) => x * Math.exp(score[k] - top)));
  }

  function draw() {
    const kappa = concentrations[slider.value], z = free.checked ? points.z : points.a;
    const prior = points.a, after = posterior(prior, z, kappa);
    told.value = kappa;
    slider.setAttribute('aria-valuetext', kappa);
    for (const [name, w] of Object.entries({a: prior, z, posterior: after}))
      svg.querySelector(`[data-point=${name}]`).setAttribute('transform', `translate(${place(w)})`);
    const [from, to] = [place(prior), place(after)], line = svg.querySelector('line');
    ['x1', 'y1'].forEach((name, d) => line.setAttribute(name, from[d]));
    ['x2', 'y2'].forEach((name, d) => line.setAttribute(name, to[d]));
    for (const handle of svg.querySelectorAll('[role=slider]')) {
      const w = handle.dataset.point == 'a' ? prior : z;
      handle.setAttribute('aria-valuenow', Math.round(100 * w[0]));
      handle.setAttribute('aria-valuetext', w.map((x, k) => `V${k + 1} ${Math.round(100 * x)} %`).join(', '));
    }
    const handle = svg.querySelector('[data-point=z]');
    handle.setAttribute('aria-disabled', !free.checked);
    handle.setAttribute('tabindex', free.checked ? 0 : -1);
    for (const [name, p] of Object.entries({prior, posterior: after}))
      [...p, entropy(p)].forEach((x, k) => {
        const number = box.querySelector(`data[data-of=${name}${k}]`);
        number.value = x;
        number.textContent = x.toFixed(2);
        number.previousElementSibling.firstElementChild.style.width = `${100 * x / (k < 3 ? 1 : Math.log2(3))}%`;
      });
    const [before, rest] = [entropy(prior), entropy(after)].map(x => x.toFixed(2));
    words.textContent = `Entropy of F: ${before} bits before z, ${rest} bits after it, of log₂ 3 ≈ 1.58 at most.`;
  }

  const move = (handle, p) => { points[handle.dataset.point] = share(thousandths(weights(p))); draw(); };
  for (const handle of svg.querySelectorAll('[role=slider]')) {
    // A finger on it must not scroll the page; the style touch-action is without effect on the parts of an SVG.
    handle.addEventListener('touchstart', event => event.preventDefault(), {passive: false});
    handle.onpointerdown = event => { handle.setPointerCapture(event.pointerId); };
    handle.onpointermove = event => {
      if (!handle.hasPointerCapture(event.pointerId)) return;
      const {x, y} = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      move(handle, [x, y]);
    };
    handle.onkeydown = event => {
      const step = {ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0]}[event.key];
      if (!step || handle.getAttribute('aria-disabled') == 'true') return;
      event.preventDefault();
      move(handle, place(points[handle.dataset.point]).map((x, d) => x + step[d] * (event.shiftKey ? 20 : 4)));
    };
    handle.onlostpointercapture = remember;  // browsers allow few changes of the address a second
    handle.onkeyup = event => event.key.startsWith('Arrow') && remember();
  }
  slider.oninput = draw;
  slider.onchange = remember;
  free.onchange = () => {
    draw();
    remember();
  };

  function remember() {
    const text = name => thousandths(points[name]).join('-');
    state.set({kappa: slider.value == first ? null : concentrations[slider.value],
      a: points.a == given.a ? null : text('a'), z: free.checked ? text('z') : null});
  }

  function arrive() {
    const kappa = concentrations.findIndex(kappa => String(kappa) == state.get('kappa'));
    slider.value = kappa < 0 ? first : kappa;
    for (const name of ['a', 'z']) {
      const text = state.get(name, ''), w = /^\d{1,4}(-\d{1,4}){2}$/.test(text) ? text.split('-').map(Number) : [0];
      points[name] = Math.max(...w) ? share(w) : given[name];
    }
    free.checked = points.z != given.z;  // a sample that goes with the activation is not in the address
    draw();
  }

  state.onarrival(arrive);
  arrive();
  Object.assign(box, {points, draw});
})();
