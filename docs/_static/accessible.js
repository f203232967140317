// What scrolls can be reached by the keyboard, and landmarks have names.
const names = { ".sidebar-drawer": "Pages", ".toc-drawer": "On this page" };
for (const [selector, name] of Object.entries(names))
  document.querySelector(selector)?.setAttribute("aria-label", name);

const scrolling = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
for (const each of document.querySelectorAll("article pre, article .table-wrapper")) scrolling.observe(each);
