(() => {
  "use strict";
  const table = document.getElementById("layers");
  if (!table) return;
  const find = (id) => document.getElementById(id);
  const groups = [...table.tBodies].map((body) => [body, body.rows[0].cells[0].textContent.toLowerCase()]);
  const apply = () => {
    const wanted = find("filter").value.trim().toLowerCase();
    let shown = 0;
    for (const [body, name] of groups) {
      body.hidden = !name.includes(wanted) || (find("only").checked && !body.classList.contains("bad"));
      shown += body.hidden ? 0 : 1;
    }
    find("count").textContent = `${shown} of ${groups.length} ${table.dataset.what ?? "layers"}`;
    find("none").hidden = shown > 0;
  };
  find("filter").addEventListener("input", apply);
  find("only").addEventListener("change", apply);
  find("controls").hidden = false;
  apply();
})();
