(() => {
  const box = document.currentScript.parentElement, {points: given, axes, sweeps, first} = JSON.parse(box.dataset.view);
  const [slider, told, again, reset, words] = ['[type=range]', 'output', '.again', '.reset', 'p']
    .map(name => box.querySelector(name));
  const ranks = [...box.querySelectorAll('[data-rank]')], state = nmfState('cone');
  const drawings = Object.fromEntries([...box.querySelectorAll('svg')].map(svg => [svg.dataset.of, svg]));
  let K, start, points;  // points in thousandths
  const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
  const cross = ([a, b], [c, d]) => a * d - b * c;
  const product = (U, V) => U.map(u => [0, 1].map(d => u.reduce((sum, x, k) => sum + x * V[k][d], 0)));
  const distance = ([a, b], [c, d]) => Math.hypot(a - c, b - d);

  // --- the methods: points (n, 2) and a rank to approximations of the points, and what spans them ---

  // The point of the cone of the rows of V that is nearest to a, as weights of the rows.
  function nearest(a, V) {
    const choices = V.map((v, k) => V.map((_, l) => l == k ? Math.max(0, dot(a, v) / Math.max(dot(v, v), 1e-30)) : 0));
    if (V.length == 2) {
      const area = cross(V[0], V[1]), inside = [cross(a, V[1]) / area, cross(V[0], a) / area];
      if (inside.every(x => x >= 0 && isFinite(x))) choices.push(inside);
    }
    const far = choices.map(u => distance(a, product([u], V)[0]));
    return choices[far.indexOf(Math.min(...far))];
  }

  // A sweep of HALS: columns of U, then rows of V, each the best non-negative one while all others are held.
  function sweep(A, U, V) {
    V.forEach((v, k) => A.forEach((a, i) => {
      const rest = dot(a, v) - V.reduce((sum, w, l) => sum + U[i][l] * dot(w, v), 0);
      U[i][k] = Math.max(0, U[i][k] + rest / Math.max(dot(v, v), 1e-30));
    }));
    V.forEach((v, k) => {
      const columns = V.map((_, l) => U.map(u => u[l])), gram = columns.map(column => dot(column, columns[k]));
      V[k] = v.map((x, d) => {
        const rest = dot(columns[k], A.map(a => a[d])) - V.reduce((sum, w, l) => sum + gram[l] * w[d], 0);
        return Math.max(0, x + rest / Math.max(gram[k], 1e-30));
      });
    });
  }

  // Rays at angles that the golden section spreads, then sweeps; the points are projected on the cone that results.
  function nmf(A, K, count) {
    const V = [...Array(K).keys()].map(k => {
      const angle = Math.PI / 2 * ((2 * start + k) * (Math.sqrt(5) - 1) / 2 % 1);
      return [Math.cos(angle), Math.sin(angle)];
    });
    const U = A.map(a => nearest(a, V));
    for (let n = 0; n < count; n++) sweep(A, U, V);
    return {V, approximation: product(A.map(a => nearest(a, V)), V)};
  }

  function pca(A, K) {  // without centring, as everywhere in this book
    const [x, y] = [0, 1].map(d => A.map(a => a[d])), angle = Math.atan2(2 * dot(x, y), dot(x, x) - dot(y, y)) / 2;
    const [c, s] = [Math.cos(angle), Math.sin(angle)], V = [[c, s], s > c ? [s, -c] : [-s, c]].slice(0, K);
    return {V, approximation: product(A.map(a => V.map(v => dot(a, v))), V)};
  }

  function kmeans(A, K) {  // the best of all partitions, so there is no start to depend on
    let best = {gain: -1};
    for (let mask = K - 1; mask < (K == 1 ? 1 : 1 << A.length - 1); mask++) {
      const groups = [0, 1].map(bit => A.filter((_, i) => (mask >> i & 1) == bit)).slice(0, K);
      const V = groups.map(group => [0, 1].map(d => group.reduce((sum, a) => sum + a[d], 0) / group.length));
      const gain = groups.reduce((sum, group, k) => sum + group.length * dot(V[k], V[k]), 0);
      if (gain > best.gain) best = {gain, V, mask};
    }
    return {V: best.V, approximation: A.map((_, i) => best.V[best.mask >> i & 1])};
  }

  function fits() {
    const A = points.map(point => point.map(x => x / 1000)), size = Math.hypot(...A.flat());
    const all = {nmf: nmf(A, K, sweeps[slider.value]), pca: pca(A, K), kmeans: kmeans(A, K)};
    for (const fit of Object.values(all)) {
      fit.away = A.map((a, i) => distance(a, fit.approximation[i]));
      fit.error = size > 0 ? Math.hypot(...fit.away) / size : 0;
    }
    return all;
  }

  // --- the drawings ---

  const most = 1.05, spans = {nmf: [0, 300, 26], pca: [-0.6, 115, 6], kmeans: [0, 178, 9]};  // least, scale, margin
  function place(method, [x, y]) {
    const [least, scale, margin] = spans[method], side = drawings[method].viewBox.baseVal.height;
    return [margin + (x - least) * scale, side - margin - (y - least) * scale];
  }
  const line = (method, a, b, how) => {
    const [[x1, y1], [x2, y2]] = [a, b].map(point => place(method, point));
    return `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" class="${how}"/>`;
  };
  const mark = (method, point, how, r) => {
    const [x, y] = place(method, point);
    return `<circle cx="${x}" cy="${y}" r="${r}" class="${how}"/>`;
  };
  const border = v => v.map(x => most * x / Math.max(...v, 1e-30));

  function spanned(method, V) {
    if (method == 'kmeans') return V.map(v => mark(method, v, 'centre', 7)).join('');
    if (method == 'pca') return V.map(v => line(method, [0, 0], v.map(x => 0.55 * x), 'ray')).join('');
    const ends = V.map(border).sort((a, b) => cross(b, a)), corner = ends.length == 2 && ends[0][0] > ends[0][1] &&
      ends[1][1] > ends[1][0] ? [[most, most]] : [];
    const outline = ends.length == 2 ? [[0, 0], ends[0], ...corner, ends[1]] : [];
    return `<polygon points="${outline.map(point => place(method, point)).join(' ')}" class="inside"/>` +
      ends.map(end => line(method, [0, 0], end, 'ray')).join('');
  }

  function draw() {
    const all = fits(), count = sweeps[slider.value], percent = fit => `${(100 * fit.error).toFixed(1)}\u00a0%`;
    for (const [method, {V, approximation}] of Object.entries(all)) {
      const [least] = spans[method], A = points.map(point => point.map(x => x / 1000));
      drawings[method].querySelector('g').innerHTML =
        line(method, [least, 0], [most, 0], 'axis') + line(method, [0, least], [0, most], 'axis') +
        spanned(method, V) + A.map((a, i) => line(method, a, approximation[i], 'lost')).join('') +
        A.map(a => method == 'nmf' ? '' : mark(method, a, 'given', 3)).join('') +
        approximation.map(point => mark(method, point, 'near', 3.5)).join('');
      box.querySelector(`data[data-of=${method}]`).textContent = percent(all[method]);
    }
    points.forEach((point, i) => {
      handles[i].setAttribute('transform', `translate(${place('nmf', point.map(x => x / 1000))})`);
      handles[i].setAttribute('aria-valuenow', Math.round(point[0] / 10));
      handles[i].setAttribute('aria-valuetext', axes.map((name, d) => `${name} ${point[d] / 1000}`).join(', '));
    });
    for (const button of ranks) button.setAttribute('aria-pressed', button.dataset.rank == K);
    told.value = `${count} sweep${count == 1 ? '' : 's'}`;
    slider.setAttribute('aria-valuetext', told.value);
    reset.disabled = String(points) == String(given);
    const outside = all.nmf.away.filter(x => x > 1e-3).length;
    words.textContent = `Error, K = ${K}: NMF after ${told.value}, start ${start}, ${percent(all.nmf)}, ` +
      `${outside} of ${points.length} points off its ${K == 1 ? 'ray' : 'cone'}; PCA ${percent(all.pca)}; ` +
      `k-means ${percent(all.kmeans)}.`;
  }

  // --- what the reader moves ---

  const ns = 'http://www.w3.org/2000/svg', handles = given.map((_, i) => {
    const handle = document.createElementNS(ns, 'g');
    handle.innerHTML = '<circle class="hit" r="13"/><circle class="dot" r="5"/>';
    for (const [name, value] of Object.entries({tabindex: 0, role: 'slider', 'aria-label': `point ${i + 1}`,
      'aria-roledescription': 'point in the plane', 'aria-valuemin': 0, 'aria-valuemax': 100}))
      handle.setAttribute(name, value);
    const move = point => {
      points[i] = point.map(x => Math.min(1000, Math.max(0, Math.round(x))));
      draw();
    };
    // A finger on it must not scroll the page; the style touch-action is without effect on the parts of an SVG.
    handle.addEventListener('touchstart', event => event.preventDefault(), {passive: false});
    handle.onpointerdown = event => { handle.setPointerCapture(event.pointerId); };
    handle.onpointermove = event => {
      if (!handle.hasPointerCapture(event.pointerId)) return;
      const {x, y} = new DOMPoint(event.clientX, event.clientY)
        .matrixTransform(drawings.nmf.getScreenCTM().inverse());
      const [left, bottom] = place('nmf', [0, 0]), scale = spans.nmf[1] / 1000;
      move([(x - left) / scale, (bottom - y) / scale]);
    };
    handle.onkeydown = event => {
      const step = {ArrowUp: [0, 1], ArrowDown: [0, -1], ArrowLeft: [-1, 0], ArrowRight: [1, 0]}[event.key];
      if (!step) return;
      event.preventDefault();
      move(points[i].map((x, d) => x + step[d] * (event.shiftKey ? 50 : 10)));
    };
    handle.onlostpointercapture = handle.onkeyup = remember;  // browsers allow few changes of the address a second
    drawings.nmf.append(handle);
    return handle;
  });
  axes.forEach((name, d) => {
    const label = document.createElementNS(ns, 'text');
    label.textContent = name;
    label.setAttribute('text-anchor', 'middle');
    label.setAttribute('transform', d ? 'translate(16 176) rotate(-90)' : 'translate(176 334)');
    drawings.nmf.prepend(label);
  });

  slider.oninput = draw;
  slider.onchange = remember;
  for (const button of ranks) button.onclick = () => change(() => { K = +button.dataset.rank; });
  again.onclick = () => change(() => { start++; });
  reset.onclick = () => change(() => { points = given.map(point => [...point]); });
  function change(what) {
    what();
    draw();
    remember();
  }

  // --- the address ---

  function remember() {
    const text = list => list.map(point => point.join('-')).join('.');
    state.set({K: K == 2 ? null : K, sweeps: +slider.value == first ? null : sweeps[slider.value],
      start: start == 1 ? null : start, points: text(points) == text(given) ? null : text(points)});
  }

  function arrive() {
    const whole = (key, otherwise, good) => good(+state.get(key, otherwise)) ? +state.get(key) : otherwise;
    K = whole('K', 2, x => x == 1);
    start = whole('start', 1, x => Number.isInteger(x) && x > 1 && x < 1e6);
    slider.value = sweeps.indexOf(whole('sweeps', sweeps[first], x => sweeps.includes(x) && x != sweeps[first]));
    const moved = state.get('points', '').split('.').map(text => /^\d+-\d+$/.test(text) && text.split('-').map(Number));
    const good = moved.length == given.length && moved.every(point => point && Math.max(...point) <= 1000);
    points = good ? moved : given.map(point => [...point]);
    draw();
  }

  state.onarrival(arrive);
  arrive();
  Object.assign(box, {fits});
})();
