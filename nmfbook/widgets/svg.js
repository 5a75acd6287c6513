// A function that makes elements for a drawing, with attributes and a text.
function nmfElements(svg) {
  return (name, attributes, text = '') => {
    const made = document.createElementNS(svg.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return made;
  };
}
