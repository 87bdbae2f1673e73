import{a as r}from"./chunk-6PGTVYBE.js";import{b as o}from"./chunk-JTXMCZMP.js";var t=o("live");t?.dataset.group&&new r(t);
