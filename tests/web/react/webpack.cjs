// Builds main.js with webpack, which is at the path that is given.
const webpack = require(process.argv[2]);

const options = {
  mode: "development",
  devtool: false,
  target: "node",
  entry: "./main.js",
  output: { path: `${process.cwd()}/webpack`, filename: "main.cjs" },
};
webpack(options, (error, stats) => {
  if (error || stats.hasErrors() || stats.hasWarnings()) throw error ?? new Error(stats.toString());
});
