// The page of a device: the live view limited to it.
import { maybe } from "./dom";
import { View } from "./view";

const root = maybe("live");
if (root?.dataset.group) new View(root);
