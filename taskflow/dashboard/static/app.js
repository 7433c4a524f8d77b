// What pages gain with JavaScript: times of the browser's zone, regions that live, a word before what cannot be undone.
import { showTimes } from "./time.js";
import { followChanges } from "./live.js";
import { askFirst } from "./confirm.js";
import { offerTheme } from "./theme.js";
import { showInDialogs } from "./dialog.js";
import { offerCopies } from "./copy.js";

showTimes(document);
setInterval(() => showTimes(document), 1000);
askFirst();
offerTheme();
showInDialogs(showTimes);
offerCopies();
document.querySelector(".top nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
followChanges(showTimes);
