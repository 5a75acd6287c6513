// The state of a view in the address, `#name.key=value&...`, so that what a reader sees can be shared. Several views of
// a page share the address; one that leads to a place of the page stays what it is until a view changes.
function nmfState(name) {
  const read = () => new URLSearchParams(location.hash.includes('=') ? location.hash.slice(1) : '');
  return {
    get: (key, otherwise) => read().get(`${name}.${key}`) ?? otherwise,
    set(values) {  // null: as at first
      const state = read();
      for (const [key, value] of Object.entries(values))
        if (value === null) state.delete(`${name}.${key}`); else state.set(`${name}.${key}`, value);
      history.replaceState(null, '', String(state) ? `#${state}` : location.pathname + location.search);
    },
    onarrival: show => window.addEventListener('hashchange', () => { if (location.hash.includes('=')) show(); }),
  };
}
