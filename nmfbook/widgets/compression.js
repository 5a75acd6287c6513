(() => {
  const box = document.currentScript.parentElement, view = JSON.parse(box.dataset.view), state = nmfState('compression');
  const [choice, slider, told, svg, samples, words] = ['select', '[type=range]', 'output', 'svg', '.samples', 'p']
    .map(name => box.querySelector(name));
  const element = nmfElements(svg);
  const buttons = [...box.querySelectorAll('[data-method]')], [LEFT, RIGHT, TOP, BOTTOM] = [44, 410, 12, 216];
  let method = buttons[0].dataset.method;

  const set = () => view.sets[choice.value];
  const called = () => buttons.find(button => button.dataset.method == method).textContent;

  function plot() {
    const {ranks, networks} = set(), K = ranks[slider.value], last = ranks.at(-1);
    const x = rank => LEFT + (RIGHT - LEFT) * rank / last, y = accuracy => BOTTOM - (BOTTOM - TOP) * accuracy;
    const ticks = [0, 0.25, 0.5, 0.75, 1].map(share => Math.round(share * last));
    svg.replaceChildren(
      element('path', {d: `M${LEFT} ${TOP}V${BOTTOM}H${RIGHT}`, fill: 'none', stroke: 'currentColor'}),
      ...ticks.map(rank => element('text', {x: x(rank), y: BOTTOM + 18, 'text-anchor': 'middle'}, rank)),
      ...[0, 0.5, 1].map(share => element('text', {x: LEFT - 6, y: y(share) + 4, 'text-anchor': 'end'}, share)),
      element('text', {x: (LEFT + RIGHT) / 2, y: BOTTOM + 38, 'text-anchor': 'middle'}, 'rank K'),
      element('text', {x: 12, y: (TOP + BOTTOM) / 2, 'text-anchor': 'middle',
        transform: `rotate(-90 12 ${(TOP + BOTTOM) / 2})`}, 'accuracy'),
      element('path', {d: `M${x(K)} ${TOP}V${BOTTOM}`, stroke: 'currentColor', 'stroke-dasharray': '4 3'}),
      ...networks.flatMap(({accuracy, color}) => {  // on a ground of its own, which a dark page needs
        const points = accuracy[method].map((value, i) => `${x(ranks[i])},${y(value)}`).join(' ');
        return [element('polyline', {points, class: 'ground'}), element('polyline', {points, stroke: color})];
      }),
      ...networks.map(({accuracy, color}) => element('circle', {cx: x(K), cy: y(accuracy[method][slider.value]), r: 5,
        fill: color, stroke: 'currentColor'})),
      ...networks.flatMap(({name, color}, i) => {
        const height = BOTTOM - 14 - 18 * (networks.length - 1 - i);
        const d = `M${RIGHT - 24} ${height - 4}H${RIGHT}`;
        return [element('path', {d, class: 'ground'}), element('path', {d, stroke: color, 'stroke-width': 2.5}),
          element('text', {x: RIGHT - 30, y: height, 'text-anchor': 'end'}, name)];
      }));
  }

  function show() {
    const {ranks, networks} = set(), place = slider.value;
    told.value = ranks[place];
    slider.setAttribute('aria-valuetext', ranks[place]);
    for (const button of buttons) button.setAttribute('aria-pressed', button.dataset.method == method);
    plot();
    networks.filter(network => network.pictures).forEach(({right}, i) => {
      samples.children[i].querySelectorAll('img').forEach((image, n) => {
        image.className = +right[method][place][n] ? '' : 'wrong';
      });
    });
    words.textContent = `${called()}, K = ${ranks[place]}: ` + networks.map(({name, accuracy}) =>
      `${name} ${Math.round(100 * accuracy[method][place])} % right`).join(', ') + '.';
    svg.setAttribute('aria-label', `Accuracy against rank K. ${words.textContent}`);
  }

  function open() {  // another data set
    const {ranks, networks} = set(), before = slider.max ? slider.value / slider.max : 0;
    slider.max = ranks.length - 1;
    slider.value = Math.round(before * slider.max);
    samples.replaceChildren(...networks.filter(network => network.pictures).map(({name, pictures}) => {
      const part = document.createElement('section'), title = document.createElement('h4');
      const sheet = document.createElement('div');
      title.textContent = `${name}: samples still right`;
      sheet.append(...pictures.map(src => Object.assign(new Image(), {src, alt: ''})));
      part.append(title, sheet);
      return part;
    }));
  }

  function change() {
    show();
    state.set({data: choice.value, method, K: set().ranks[slider.value]});
  }

  function arrive() {
    const [data, by, K] = ['data', 'method', 'K'].map(key => state.get(key));
    if (!Object.hasOwn(view.sets, data) || !buttons.some(button => button.dataset.method == by)) return;
    choice.value = data;
    method = by;
    open();
    slider.value = Math.max(0, set().ranks.indexOf(+K));
    show();
  }

  slider.oninput = change;
  choice.onchange = () => {
    open();
    change();
  };
  for (const button of buttons) button.onclick = () => {
    method = button.dataset.method;
    change();
  };
  state.onarrival(arrive);
  open();
  slider.value = view.start;
  show();
  arrive();
})();
