const greeting = require("greeting");
console.log(greeting(process.env.NODE_ENV));
