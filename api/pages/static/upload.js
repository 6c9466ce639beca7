"use strict";
// Sends a file as the body of a request, with its progress; a form of HTML would have to wrap it.
for (const form of document.querySelectorAll("form[data-upload]")) {
  form.hidden = false;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const file = form.elements.file.files[0];
    const said = form.querySelector(".upload-said");
    const bar = form.querySelector(".upload-progress");
    const button = form.querySelector("button");
    const query = new URLSearchParams({ name: form.elements.name.value || file.name.replace(/\.[^.]*$/, "").slice(0, 200) || "upload" });
    if (form.elements.metadata.value.trim()) query.set("metadata", form.elements.metadata.value);
    const request = new XMLHttpRequest();
    request.open("POST", `${form.dataset.upload}?${query}`);
    request.setRequestHeader("X-Form-Token", form.elements.form_token.value);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.addEventListener("progress", (moved) => { if (moved.lengthComputable) bar.value = moved.loaded / moved.total; });
    request.addEventListener("loadend", () => {
      button.disabled = false;
      bar.hidden = true;
      if (request.status === 201) {
        window.location.assign(request.getResponseHeader("Location"));
        return;
      }
      let problem = { detail: "the connection was lost" };
      try { problem = JSON.parse(request.responseText); } catch { /* not an answer of the service */ }
      said.textContent = problem.hint ? `${problem.detail}: ${problem.hint}` : problem.detail;
    });
    said.textContent = "";
    bar.value = 0;
    bar.hidden = false;
    button.disabled = true;
    request.send(file);
  });
}
