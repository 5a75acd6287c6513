(() => {
  const box = document.currentScript.parentElement, view = JSON.parse(box.dataset.view), state = nmfState('choices');
  const [set, svg, best, words] = ['[data-set]', 'svg', '[role=group]', 'p'].map(name => box.querySelector(name));
  const element = nmfElements(svg);
  const selects = [...box.querySelectorAll('[data-factor]')], [LEFT, RIGHT, ROW] = [76, 350, 36];

  const methods = () => view.sets[set.value], chosen = () => selects.map(select => select.value);
  const levels = factor => [...new Set(methods().flatMap(({values}) => values.map(row => row[factor])))].filter(Boolean);
  const value = row => row.at(-1);
  // What a method was measured at under the choice: a level that it does not have stands for all.
  const applies = (row, levels) => levels.every((level, i) => row[i] == '' || row[i] == level);
  const at = ({values}, levels) => values.find(row => applies(row, levels));
  const percent = share => `${(100 * share).toFixed(1)} %`;

  function plot() {
    const all = methods().flatMap(({values}) => values.map(value));
    const low = Math.floor(10 * Math.min(...all)) / 10, high = Math.max(low + 0.1, Math.ceil(10 * Math.max(...all)) / 10);
    const x = share => LEFT + (RIGHT - LEFT) * (share - low) / (high - low), bottom = ROW * methods().length + 6;
    const ticks = Array.from({length: Math.round(10 * (high - low)) + 1}, (_, i) => low + i / 10);
    svg.setAttribute('viewBox', `0 0 424 ${bottom + 40}`);
    svg.replaceChildren(
      element('path', {d: `M${LEFT} ${bottom}H${RIGHT}`, stroke: 'currentColor'}),
      ...ticks.map(tick => element('text', {x: x(tick), y: bottom + 16, 'text-anchor': 'middle'},
        Math.round(100 * tick))),
      element('text', {x: (LEFT + RIGHT) / 2, y: bottom + 34, 'text-anchor': 'middle'}, 'mean precision, %'),
      ...methods().flatMap((method, i) => {
        const y = ROW * (i + 0.5), row = at(method, chosen());
        return [
          element('text', {x: LEFT - 12, y: y + 4, 'text-anchor': 'end'}, method.name),
          ...method.values.map(other => element('circle', {cx: x(value(other)), cy: y, r: 4, fill: method.color,
            class: 'other'})),
          ...row ? [element('circle', {cx: x(value(row)), cy: y, r: 8, fill: method.color, stroke: 'currentColor',
            'stroke-width': 2, class: 'chosen'})] : [],
          element('text', {x: RIGHT + 14, y: y + 4}, row ? percent(value(row)) : '–'),
        ];
      }));
  }

  function show() {
    plot();
    const said = chosen().map((level, i) => `${view.factors[i]} ${level || '–'}`).join('; ');
    words.textContent = `${set.value}; ${said}: ` + methods().map(method => {
      const row = at(method, chosen());
      return `${method.name} ${row ? percent(value(row)) : 'not measured'}`;
    }).join(', ') + '.';
    svg.setAttribute('aria-label', words.textContent);
  }

  function open(wanted) {  // another set, or other levels; a level that is not there gives way to the first
    selects.forEach((select, i) => {
      select.replaceChildren(...levels(i).map(level => new Option(level)));
      select.value = levels(i).includes(wanted[i]) ? wanted[i] : levels(i)[0] ?? '';
    });
    best.replaceChildren(...methods().map(method => {
      const button = Object.assign(document.createElement('button'), {type: 'button', textContent: `best of ${method.name}`});
      button.onclick = () => {
        const row = method.values.reduce((first, other) => value(other) > value(first) ? other : first);
        selects.forEach((select, i) => { select.value = row[i] || select.value; });
        change();
      };
      return button;
    }));
  }

  function change() {
    show();
    state.set({set: set.value, levels: chosen().join('~')});
  }

  function arrive() {
    const [title, wanted] = [state.get('set'), state.get('levels', '').split('~')];
    if (!Object.hasOwn(view.sets, title) || wanted.length != selects.length) return;
    set.value = title;
    open(wanted);
    show();
  }

  set.onchange = () => {
    open(chosen());
    change();
  };
  for (const select of selects) select.onchange = change;
  state.onarrival(arrive);
  open(view.start);
  show();
  arrive();
})();
