"use strict";
// Brings the page up to date without a reload: focus, selection, scrolling, open details and half-filled forms stay.
(() => {
  const root = document.documentElement;
  const seconds = Number(root.dataset.refresh);
  // However much happens, the page is asked for once in so many milliseconds.
  const SPACING = 1000;
  const byId = (page, id) => page.getElementById(id);
  const isElement = (node) => node.nodeType === Node.ELEMENT_NODE;
  // Not node.id: of a form with a field that is named "id", that is the field.
  const keyOf = (node) => (isElement(node) ? node.getAttribute("id") || node.getAttribute("data-key") || "" : "");

  // A form that somebody has begun to fill in is theirs until it's sent or emptied.
  const isBegun = (form) => [...form.elements].some((field) =>
    field === document.activeElement && field.matches("input, select, textarea")
    || (field.type !== "hidden" && "defaultValue" in field && field.value !== field.defaultValue)
    || (field.options && [...field.options].some((option) => option.selected !== option.defaultSelected)));

  const alike = (old, fresh) => old.nodeName === fresh.nodeName && keyOf(old) === keyOf(fresh);

  function morph(old, fresh) {
    if (!isElement(old)) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    if (old.nodeName === "FORM" && isBegun(old)) return;
    // Whether details are open is for those who read them to say.
    const isTheirs = (name) => old.nodeName === "DETAILS" && name === "open";
    for (const { name } of [...old.attributes])
      if (!fresh.hasAttribute(name) && !isTheirs(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes)
      if (old.getAttribute(name) !== value && !isTheirs(name)) old.setAttribute(name, value);
    morphChildren(old, fresh);
  }

  function morphChildren(old, fresh) {
    const keyed = new Map([...old.children].filter(keyOf).map((child) => [keyOf(child), child]));
    let place = old.firstChild;
    for (const wanted of fresh.childNodes) {
      const found = keyOf(wanted) ? keyed.get(keyOf(wanted)) : null;
      if (found && found !== place && found.nodeName === wanted.nodeName) {
        old.insertBefore(found, place);
        place = found;
      }
      if (place && alike(place, wanted)) {
        const next = place.nextSibling;
        morph(place, wanted);
        place = next;
      } else {
        old.insertBefore(document.importNode(wanted, true), place);
      }
    }
    while (place) {
      const next = place.nextSibling;
      place.remove();
      place = next;
    }
  }

  function show(next) {
    document.title = next.title;
    document.querySelector("link[rel=icon]").href = next.querySelector("link[rel=icon]").href;
    // What came of an action is told once, and stays to be read.
    const outcome = byId(document, "outcome"), heading = next.querySelector("main > h1");
    if (outcome && heading && !byId(next, "outcome")) heading.after(next.importNode(outcome, true));
    const focused = document.activeElement, top = scrollY;
    morph(byId(document, "page"), byId(next, "page"));
    if (document.activeElement !== focused && focused.isConnected) focused.focus({ preventScroll: true });
    if (scrollY !== top) scrollTo({ top, behavior: "instant" });
  }

  function complain(text) {
    const silence = byId(document, "silence");
    silence.hidden = !text;
    if (silence.textContent !== text) silence.textContent = text;
    root.classList.toggle("stale", Boolean(text));
  }

  let asked = 0, waiting = null, asking = false;

  async function refresh() {
    if (asking || document.hidden || !getSelection().isCollapsed) return;
    asking = true;
    asked = Date.now();
    try {
      const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(seconds * 1000) });
      if (!answer.ok && answer.status !== 404) throw new Error(`the exporter answered ${answer.status}`);
      show(new DOMParser().parseFromString(await answer.text(), "text/html"));
      complain("");
    } catch (error) {
      const reason = error.message.startsWith("the exporter") ? error.message : "the exporter doesn't answer";
      complain(`Out of date: ${reason}. What you see is ${byId(document, "as-of").textContent.toLowerCase()}.`);
    } finally {
      asking = false;
    }
  }

  function soon() {
    if (waiting === null)
      waiting = setTimeout(() => { waiting = null; refresh(); }, Math.max(0, asked + SPACING - Date.now()));
  }

  // The exporter may hand out a page from just before the change: once all is quiet, it's asked for again.
  let last = null;

  function heard() {
    soon();
    clearTimeout(last);
    last = setTimeout(soon, 1.5 * SPACING);
  }

  // Changes of tasks are heard of as they happen, where the exporter tells; all else, and all of it otherwise, by the clock.
  let events = null;
  const mark = () => root.classList.toggle("live", events !== null && events.readyState === EventSource.OPEN);

  function listen() {
    if (!root.dataset.events || document.hidden || events) return;
    events = new EventSource(root.dataset.events);
    events.onopen = () => {
      mark();
      heard();  // of what has changed before
    };
    events.onerror = () => {
      // It tries again by itself, unless it was refused: then there may be a place later on.
      if (events && events.readyState === EventSource.CLOSED) {
        events = null;
        setTimeout(listen, 30000);
      }
      mark();
    };
    for (const type of ["change", "missed"]) events.addEventListener(type, heard);
  }

  // A stream is held for somebody who looks.
  function fallSilent() {
    if (events) events.close();
    events = null;
    mark();
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return fallSilent();
    soon();
    listen();
  });
  addEventListener("pagehide", fallSilent);
  setInterval(refresh, seconds * 1000);
  listen();
})();
