(() => {
  const box = document.currentScript.parentElement, view = JSON.parse(box.dataset.view), state = nmfState('query');
  const [strip, asked, words] = ['.strip', '.asked img', 'p'].map(name => box.querySelector(name));
  const lines = [...box.querySelectorAll('.found section')].map(section => ({
    title: section.querySelector('strong'), method: section.querySelector('strong').textContent,
    buttons: [...section.querySelectorAll('button')]}));
  const known = name => Object.hasOwn(view.queries, name);
  let chosen;

  function show(name) {
    const {right, found} = view.queries[name];
    chosen = name;
    Object.assign(asked, {src: view.pictures[name], alt: name});
    for (const button of strip.children) button.setAttribute('aria-pressed', button.dataset.name == name);
    const counts = lines.map(({method, title, buttons}, line) => {
      const names = found[line], count = names.filter(other => right.includes(other)).length;
      buttons.forEach((button, i) => {
        button.hidden = i >= names.length;
        if (button.hidden) return;
        const other = names[i], good = right.includes(other);
        button.dataset.name = other;
        button.className = good ? 'right' : 'wrong';
        button.disabled = !known(other);
        button.setAttribute('aria-label', `${i + 1}: ${other}, ${good ? 'right' : 'wrong'}`
          + (button.disabled ? '' : '; search with it'));
        button.firstElementChild.src = view.pictures[other];
        button.lastElementChild.textContent = good ? '✓' : '✗';
      });
      title.textContent = `${method}: ${count} of ${names.length} right`;
      return title.textContent;
    });
    words.textContent = `Query ${name}. ${counts.join('; ')}.`;
  }

  function choose(event) {
    const button = event.target.closest('button');
    if (!button || button.disabled) return;
    show(button.dataset.name);
    state.set({picture: chosen});
  }

  function arrive() {
    const name = state.get('picture');
    if (known(name)) show(name);
  }

  strip.append(...view.offered.map(name => {
    const button = document.createElement('button');
    button.type = 'button';
    button.dataset.name = name;
    button.append(Object.assign(new Image(), {src: view.pictures[name], alt: name}));
    return button;
  }));
  box.querySelector('.both').onclick = strip.onclick = choose;
  state.onarrival(arrive);
  show(view.start);
  arrive();
})();
