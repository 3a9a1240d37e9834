// Guesses the reader's time zone, and from it the country, while the form is fresh. It works without this, too.
// A zone without a country, such as UTC, is what a browser says that would rather not tell: the site's own stays.
"use strict";
(() => {
  const zones = document.querySelector("select[data-guess]");
  const countries = document.getElementById("country");
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const untouched = (select) => !select.selectedOptions[0] || select.selectedOptions[0].defaultSelected || select.selectedIndex === 0;
  if (!zones || !zone || !untouched(zones)) return;
  const guess = [...zones.options].find((option) => option.value === zone || option.dataset.also === zone);
  if (!guess?.dataset.country) return;
  guess.selected = true;
  const home = [...countries.options].find((option) => option.value === guess.dataset.country);
  if (home && untouched(countries)) home.selected = true;
})();
