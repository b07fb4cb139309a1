// Preact's components and htm's templates: the only place that knows where the two libraries are.
import { Component, h, render } from "../vendor/preact/preact.mjs";
import htm from "../vendor/htm/htm.mjs";

export const html = htm.bind(h);
export { Component, render };
