// The page of a device: the live view limited to it.
import { maybe } from "./dom";
import { View } from "./view";

const root = maybe("live");
// Within reach of the console, and of tests that compare what is shown with what is recorded.
if (root?.dataset.group) Object.assign(window, { millrace: new View(root) });
