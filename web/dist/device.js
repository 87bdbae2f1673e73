import{a as i}from"./chunk-I7TPUPA7.js";import"./chunk-TXYHGSRY.js";import{b as o}from"./chunk-JTXMCZMP.js";var e=o("live");e?.dataset.group&&Object.assign(window,{millrace:new i(e)});
