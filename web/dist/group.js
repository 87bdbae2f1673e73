import{a as r}from"./chunk-C2H2NH2H.js";import{b as o}from"./chunk-JTXMCZMP.js";var t=o("live");t?.dataset.group&&new r(t);
