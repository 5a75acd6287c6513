// Filters of the page Reproduction; their state is in the address, so that a view can be shared.
(() => {
  const box = document.querySelector('.nmf-filters'), rows = [...document.querySelectorAll('.nmf-rows > details')];
  const [chapter, search, told] = ['select', 'input', 'output'].map(name => box.querySelector(name));
  const buttons = [...box.querySelectorAll('[data-verdict]')];
  const texts = new Map(rows.map(row => [row, row.textContent.toLowerCase()]));

  function show() {
    const chosen = buttons.filter(button => button.getAttribute('aria-pressed') == 'true')
      .map(button => button.dataset.verdict);
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) row.hidden = !(
      (!chosen.length || chosen.includes(row.dataset.verdict)) && (!chapter.value || row.dataset.chapter == chapter.value)
      && words.every(word => texts.get(row).includes(word)));
    const left = rows.filter(row => !row.hidden).length;
    told.value = left == rows.length ? `${left} rows` : `${left} of ${rows.length} rows`;
    const state = Object.entries({verdict: chosen.join(), chapter: chapter.value, search: search.value.trim()})
      .filter(([, value]) => value);
    return state.length ? '#' + new URLSearchParams(state) : '';
  }

  const change = () => history.replaceState(null, '', show() || location.pathname + location.search);

  function arrive() {  // at a state, or at a row
    const place = decodeURIComponent(location.hash.slice(1)), row = rows.find(row => row.id == place);
    const state = new URLSearchParams(row ? '' : place);
    buttons.forEach(button => button.setAttribute('aria-pressed',
      (state.get('verdict') ?? '').split(',').includes(button.dataset.verdict)));
    chapter.value = state.get('chapter') ?? '';
    search.value = state.get('search') ?? '';
    show();
    if (row) {
      row.open = true;
      row.scrollIntoView();
    }
  }

  buttons.forEach(button => {
    button.onclick = () => {
      button.setAttribute('aria-pressed', button.getAttribute('aria-pressed') != 'true');
      change();
    };
  });
  chapter.onchange = search.oninput = change;
  window.addEventListener('hashchange', arrive);
  arrive();
})();
