// Swagger UI over the service's own document. Example ids in it are replaced by ids that exist here, where the reader may list them,
// so that *Execute* works on what is there.

const json = async (path) => {
  const response = await fetch(path, { headers: { Accept: "application/json" } });
  return response.ok ? response.json() : null;
};

const newest = async (path, wanted = () => true) => {
  const found = (await json(path))?.data ?? [];
  return (found.find(wanted) ?? found[0])?.id;
};
const ready = (upload) => upload.status === "ready";

const spec = await json("openapi.json");
const examples = spec["x-example-ids"];
const job = await newest("v1/jobs?limit=1&status=succeeded") ?? await newest("v1/jobs?limit=1");
const found = {
  model: await newest("v1/models", ready),
  dataset: await newest("v1/datasets", ready),
  job,
  artifact: job && await newest(`v1/jobs/${job}/artifacts`),
};

let text = JSON.stringify(spec);
for (const [kind, id] of Object.entries(found)) {
  if (id) text = text.replaceAll(examples[kind], id);
}

window.ui = SwaggerUIBundle({
  spec: JSON.parse(text),
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  filter: true,
  persistAuthorization: true,
  tryItOutEnabled: true,
  validatorUrl: null,
});
