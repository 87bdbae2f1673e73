// The live page of a group.
import { maybe } from "./dom";
import { View } from "./view";

const root = maybe("live");
if (root?.dataset.group) new View(root);
