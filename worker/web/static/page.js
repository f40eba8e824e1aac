/* The page works without this. What it adds: figures that stay fresh, without moving what is focused. */
"use strict";

(() => {
  const main = document.getElementById("main");
  const lost = document.getElementById("lost");
  const said = document.getElementById("said");

  const parsed = (html) => new DOMParser().parseFromString(html, "text/html");

  /* Makes `old` like `fresh` and keeps every element that can stay, so that focus and selection do. */
  function become(old, fresh) {
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || old.id !== fresh.id) {
      old.replaceWith(document.importNode(fresh, true));
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    if (old.isEqualNode(fresh)) return;
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    const kept = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
    let place = old.firstChild;
    for (const child of [...fresh.childNodes]) {
      const known = child.id ? kept.get(child.id) : place && !place.id ? place : null;
      if (!known) {
        old.insertBefore(document.importNode(child, true), place);
      } else if (known === place) {
        place = place.nextSibling;
        become(known, child);
      } else {
        old.insertBefore(known, place);
        become(known, child);
      }
    }
    while (place) {
      const next = place.nextSibling;
      place.remove();
      place = next;
    }
  }

  /* The verdict is read out when it turns, and not with every number. */
  function announce(fresh) {
    const old = document.getElementById("verdict");
    if (old && fresh && fresh.dataset.level !== old.dataset.level) {
      said.textContent = fresh.querySelector("h1").textContent.trim();
    }
  }

  function show(title, sections) {
    document.title = title;
    for (const [id, html] of Object.entries(sections)) {
      const old = document.getElementById(id);
      const fresh = parsed(html).getElementById(id);
      if (!old || !fresh) continue;
      if (id === "verdict") announce(fresh);
      become(old, fresh);
    }
  }

  function connected(well, since = new Date()) {
    if (!well && lost.hidden) {
      const at = since.toLocaleTimeString([], { hour12: false });
      lost.textContent = `No connection to caspen-sync since ${at}. What you see is from then.`;
    }
    lost.hidden = well;
    document.body.classList.toggle("stale", !well);
  }

  /* Makes this page as it is now. It has a time limit, since a connection may die without a word. */
  async function renew() {
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(10000) });
      /* Also a page that says what is wrong; then this one is looked for again all the same. */
      const page = parsed(await answer.text());
      const fresh = page.getElementById("main");
      if (fresh && !answer.ok) Object.assign(fresh.dataset, main.dataset);
      connected(Boolean(fresh));
      if (!fresh) return;
      document.title = page.title;
      announce(page.getElementById("verdict"));
      become(main, fresh);
    } catch {
      connected(false);
    }
  }

  /* The overview is sent what changes. */
  function follow(path) {
    /* The service says something every four seconds; a stream that ends goes on a second later, without a word. */
    const SILENCE_MS = 10000;
    const PATIENCE_MS = 2500;
    const AGAIN_MS = 3000;
    let source = null;
    let again = 0;
    let missed = 0;
    let silence = 0;
    let heard = new Date();

    function close() {
      for (const timer of [again, missed, silence]) clearTimeout(timer);
      missed = 0;
      if (source) source.close();
      source = null;
    }

    function listen() {
      clearTimeout(silence);
      silence = setTimeout(() => {
        connected(false, heard);
        open();
      }, SILENCE_MS);
    }

    /* Turned away: the browser would not try again by itself, and others look. */
    async function withoutStream() {
      close();
      await renew();
      if (!document.hidden && !source) again = setTimeout(open, AGAIN_MS);
    }

    function open() {
      close();
      source = new EventSource(path);
      listen();
      source.onmessage = (event) => {
        heard = new Date();
        listen();
        clearTimeout(missed);
        missed = 0;
        connected(true);
        const { title, sections } = JSON.parse(event.data);
        show(title, sections);
      };
      source.onerror = () => {
        if (source && source.readyState === EventSource.CLOSED) withoutStream();
        else missed ||= setTimeout(connected, PATIENCE_MS, false, heard);
      };
    }

    /* Whoever does not look costs nothing. */
    document.addEventListener("visibilitychange", () => {
      close();
      if (!document.hidden) open();
    });
    if (!document.hidden) open();
  }

  /* Another page looks again for as long as it says that something is under way. */
  async function lookAgain() {
    const seconds = Number(main.dataset.lookAgain);
    if (!seconds) return;
    await new Promise((done) => setTimeout(done, seconds * 1000));
    if (!document.hidden) await renew();
    lookAgain();
  }

  /* What has just been done is said once, and not whenever this address is opened. */
  const address = new URL(location.href);
  if (address.searchParams.has("did")) {
    for (const name of ["did", "n", "outdated"]) address.searchParams.delete(name);
    history.replaceState(null, "", address);
  }

  if (main.dataset.live) follow(main.dataset.live);
  else lookAgain();
})();
