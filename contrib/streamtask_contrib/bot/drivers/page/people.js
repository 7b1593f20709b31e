// Who is in the meeting, and whose an element is, as the recipe says.

class People {
  #recipe;
  #keys = new WeakMap();
  #counted = 0;

  constructor(recipe) {
    this.#recipe = recipe;
  }

  // The elements that participants are heard by.
  elements() {
    return document.querySelectorAll(this.#recipe.elements);
  }

  // Whose an element is: what the page says, or else somebody of whom nothing is known but this element.
  owner(element) {
    for (const { attribute, pattern } of this.#recipe.belongs) {
      const holder = element.closest(`[${attribute}]`);
      const found = holder?.getAttribute(attribute).match(new RegExp(pattern));
      if (found?.[1]) return found[1];
    }
    return this.unknown(element);
  }

  // A name for whatever makes the sound, the same for as long as it lives.
  unknown(thing) {
    if (!this.#keys.has(thing)) this.#keys.set(thing, `unknown-${++this.#counted}`);
    return this.#keys.get(thing);
  }

  // Those whom the page shows, whether they are heard or not.
  shown() {
    if (!this.#recipe.tiles) return [];
    const tiles = [...document.querySelectorAll(this.#recipe.tiles)];
    const { attribute, pattern } = this.#recipe.tile_id;
    return tiles.map((tile) => tile.getAttribute(attribute)?.match(new RegExp(pattern))?.[1]).filter(Boolean);
  }

  // The name that the page shows for somebody; "" where there is none yet.
  name(id, element) {
    return this.#shownName(id) || (element ? this.#labelOf(element) : "");
  }

  #shownName(id) {
    const escaped = CSS.escape(id);
    for (const template of this.#recipe.names) {
      const text = document.querySelector(template.replaceAll("{id}", escaped))?.textContent.trim();
      if (text) return text;
    }
    return "";
  }

  #labelOf(element) {
    for (const attribute of this.#recipe.labels) {
      const label = element.closest(`[${attribute}]`)?.getAttribute(attribute).trim();
      if (label) return label;
    }
    for (const selector of this.#recipe.captions) {
      const text = element.closest(selector.tile)?.querySelector(selector.name)?.textContent.trim();
      if (text) return text;
    }
    return "";
  }
}
