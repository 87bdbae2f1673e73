import{a as i}from"./chunk-6JUDDK2N.js";import{b as o}from"./chunk-JTXMCZMP.js";var e=o("live");e?.dataset.group&&Object.assign(window,{millrace:new i(e)});
