(() => {
  const box = document.currentScript.parentElement, view = JSON.parse(box.dataset.view), state = nmfState('support');
  const [choice, grid, words, list] = ['select', '.grid', 'p', 'ul'].map(name => box.querySelector(name));
  const first = choice.value;
  const bits = x => { let n = 0; for (; x; x &= x - 1) n++; return n; };

  function rank(A) {  // Bareiss: every intermediate value is a minor of A, hence an integer
    A = A.map(row => [...row]);
    let r = 0, last = 1;
    for (let j = 0; j < A[0].length; j++) {
      const p = A.findIndex((row, i) => i >= r && row[j]);
      if (p < 0) continue;
      [A[r], A[p]] = [A[p], A[r]];
      for (let i = r + 1; i < A.length; i++) for (let l = A[0].length - 1; l >= j; l--)
        A[i][l] = (A[i][l] * A[r][j] - A[i][j] * A[r][l]) / last;
      last = A[r++][j];
    }
    return r;
  }

  // A set of cells is two words of bits: rows 1 to 4 and rows 5 to 7, seven bits each.
  function solve(M, budget = view.budget) {
    const rows = M.map(row => row.reduce((mask, one, j) => mask | one << j, 0)), maximal = new Map(), cells = [];
    for (let subset = 1; subset < 1 << M.length; subset++) {
      const columns = rows.reduce((mask, row, i) => subset >> i & 1 ? mask & row : mask, 127);
      if (!columns || maximal.has(columns)) continue;
      const set = [0, 0], full = rows.flatMap((row, i) => (row & columns) == columns ? i : []);
      for (const i of full) set[i >> 2] |= columns << 7 * (i & 3);
      maximal.set(columns, {rows: full, columns: M[0].flatMap((_, j) => columns >> j & 1 ? j : []), set});
    }
    M.forEach((row, i) => row.forEach((one, j) => {
      if (!one) return;
      const set = [0, 0];
      set[i >> 2] = 1 << 7 * (i & 3) + j;
      const by = [...maximal.values()].filter(x => x.set[0] & set[0] | x.set[1] & set[1]);
      const near = [0, 1].map(w => by.reduce((mask, x) => mask | x.set[w], 0));  // the cells that share a rectangle
      cells.push({i, j, set, by, near});
    }));

    let fooling = [], steps = budget;
    (function fool(i, lo, hi, chosen) {
      if (chosen.length > fooling.length) fooling = chosen;
      const open = new Set(cells.filter(c => c.i >= i && (lo & c.set[0] | hi & c.set[1])).map(c => c.i));
      if (chosen.length + open.size <= fooling.length || --steps < 0) return;
      i = Math.min(...open);
      for (const c of cells) if (c.i == i && (lo & c.set[0] | hi & c.set[1]))
        fool(i + 1, lo & ~c.near[0], hi & ~c.near[1], [...chosen, c]);
      fool(i + 1, lo, hi, chosen);
    })(0, -1, -1, []);
    const surely = steps >= 0;

    const order = [...cells].sort((c, d) => c.by.length - d.by.length), rectangles = [...maximal.values()];
    function cover(k, lo, hi) {  // at most k rectangles over the given cells, or null
      let need = 0, first, a = lo, b = hi;
      for (const c of order) if (a & c.set[0] | b & c.set[1]) {  // no two of these cells share a rectangle
        first ??= c;
        if (++need > k) return null;
        a &= ~c.near[0]; b &= ~c.near[1];
      }
      if (!first) return [];
      if (--steps < 0) return null;
      const left = x => bits(x.set[0] & lo) + bits(x.set[1] & hi);
      if (k * Math.max(...rectangles.map(left)) < left({set: all})) return null;  // too many cells for k of them
      for (const x of [...first.by].sort((x, y) => left(y) - left(x))) {
        const rest = cover(k - 1, lo & ~x.set[0], hi & ~x.set[1]);
        if (rest) return [x, ...rest];
      }
      return null;
    }
    const all = [0, 1].map(w => cells.reduce((mask, c) => mask | c.set[w], 0));
    let found = null, least = fooling.length;
    steps = budget;
    while (!(found = cover(least, ...all)) && steps >= 0) least++;
    const exact = found !== null;
    found ??= [...new Set(rows)].filter(row => row).map(row => maximal.get(row));  // the rows themselves
    return {cover: found.map(({rows, columns}) => ({rows, columns})), exact, least, rank: rank(M),
            fooling: fooling.map(({i, j}) => [i, j]), surely};
  }

  let M;
  const mark = k => `<b style="background:${view.colors[k]};color:${k ? '#000' : '#fff'}">${k + 1}</b>`;
  const cell = (i, j) => grid.querySelector(`[data-i="${i}"][data-j="${j}"]`);
  const listed = set => '{' + set.map(k => k + 1).join(', ') + '}';

  function draw() {
    const {cover, exact, least, rank, fooling, surely} = solve(M), side = cover.length > 4 ? 3 : 2;
    for (const button of grid.querySelectorAll('button')) {
      const i = +button.dataset.i, j = +button.dataset.j;
      const inside = cover.map(x => x.rows.includes(i) && x.columns.includes(j));
      const ring = fooling.some(([k, l]) => k == i && l == j);
      button.setAttribute('aria-pressed', !!M[i][j]);
      button.setAttribute('aria-label', `row ${i + 1}, column ${j + 1}` + (M[i][j]
        ? ': rectangle ' + inside.flatMap((yes, k) => yes ? k + 1 : []).join(' and ') : '')
        + (ring ? ', in the fooling set' : ''));
      button.className = ring ? 'fooling' : '';
      button.style.gridTemplate = `repeat(${Math.max(2, Math.ceil(cover.length / side))}, 1fr) / repeat(${side}, 1fr)`;
      button.innerHTML = inside.map((yes, k) => yes ? mark(k).replace('style="',
        `style="grid-area:${Math.floor(k / side) + 1}/${k % side + 1};`) : '').join('');
    }
    words.textContent = `Fooling set (ringed): ${surely ? '' : 'at least '}${fooling.length} ≤ rectangle cover number `
      + 'rc ' + (exact ? `= ${cover.length}` : `at least ${least}, at most ${cover.length}, the search was cut short`)
      + `. Rank over the reals: ${rank}.`;
    list.innerHTML = cover.map((x, k) => `<li>${mark(k)}rows ${listed(x.rows)} × columns ${listed(x.columns)}</li>`)
      .join('');
    box.querySelectorAll('[data-add]').forEach(button => {
      const size = button.dataset.of == 'row' ? M.length : M[0].length;
      button.disabled = +button.dataset.add > 0 ? size == 7 : size == 1;
    });
  }

  function load(matrix) {
    M = matrix.map(row => [...row]);
    grid.style.gridTemplateColumns = `1rem repeat(${M[0].length}, minmax(0, 3.25rem))`;
    grid.innerHTML = '<i></i>' + M[0].map((_, j) => `<i aria-hidden="true">${j + 1}</i>`).join('')
      + M.map((row, i) => `<i aria-hidden="true">${i + 1}</i>` + row.map((_, j) =>
        `<button type="button" data-i="${i}" data-j="${j}" tabindex="${i + j ? -1 : 0}"></button>`).join('')).join('');
    draw();
  }

  grid.onclick = event => {
    const button = event.target.closest('button');
    if (!button) return;
    M[button.dataset.i][button.dataset.j] ^= 1;
    choice.value = '';
    draw();
    remember();
  };
  grid.onkeydown = event => {
    const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
    const from = event.target.dataset;
    if (!step || !from.i) return;
    event.preventDefault();
    cell(+from.i + step[0], +from.j + step[1])?.focus();
  };
  grid.addEventListener('focusin', event => {  // one stop for the Tab key, the arrows move within
    grid.querySelectorAll('button').forEach(button => { button.tabIndex = button == event.target ? 0 : -1; });
  });
  box.querySelectorAll('[data-add]').forEach(button => {
    button.onclick = () => {
      const row = button.dataset.of == 'row', grow = +button.dataset.add > 0;
      choice.value = '';
      load(row ? grow ? [...M, M[0].map(() => 0)] : M.slice(0, -1) : M.map(r => grow ? [...r, 0] : r.slice(0, -1)));
      remember();
    };
  });
  choice.onchange = () => {
    load(view.examples[choice.value]);
    remember();
  };

  function remember() {  // the name of an example, or the reader's own matrix, row by row
    const name = choice.value;
    state.set({example: name == first || !name ? null : name, rows: name ? null : M.map(row => row.join('')).join('.')});
  }

  function arrive() {
    const name = state.get('example'), rows = state.get('rows', '').split('.');
    const good = rows.length <= 7 && rows.every(row => /^[01]{1,7}$/.test(row) && row.length == rows[0].length);
    choice.value = good ? '' : Object.hasOwn(view.examples, name) ? name : first;
    load(good ? rows.map(row => [...row].map(Number)) : view.examples[choice.value]);
  }

  state.onarrival(arrive);
  Object.assign(box, {solve, load});
  arrive();
})();
