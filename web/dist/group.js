import{a as i}from"./chunk-BFJX2BY7.js";import{b as o}from"./chunk-JTXMCZMP.js";var e=o("live");e?.dataset.group&&Object.assign(window,{millrace:new i(e)});
