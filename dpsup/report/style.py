# SPDX-License-Identifier: BSD-3-Clause
"""The page's style sheet: fonts that every system has, for any width and for paper."""

STYLE = """
:root { color-scheme: light }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; color: #1a202c; background: #fff; margin: 0 auto;
  max-width: 1100px; padding: 1.2rem 1.5rem 4rem }
h1 { font-size: 1.7rem; margin: 0 }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid #cbd5e0;
  padding-bottom: .2rem }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem }
p { margin: .4rem 0; overflow-wrap: anywhere }
.dim { color: #5a6472 }
.badge { display: inline-block; border-radius: .8rem; padding: 0 .7rem; font-size: .95rem;
  vertical-align: .25rem; margin-left: .6rem; background: #e2e8f0 }
.badge.good { background: #c6f0cf }
.badge.warn { background: #fbe3a8 }
.badge.bad { background: #f6b4b4 }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: .7rem;
  margin: 1rem 0 }
.card { border: 1px solid #cbd5e0; border-radius: .4rem; padding: .5rem .8rem }
.card b { display: block; font-size: 1.2rem; white-space: nowrap;
  font-variant-numeric: tabular-nums }
.card.bad b { color: #b3261e }
.card.warn b { color: #8a5a00 }
.scroll { overflow-x: auto; max-width: 100% }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size:
  .9rem }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; vertical-align: top;
  border-bottom: 1px solid #edf2f7; overflow-wrap: break-word }
td:last-child { overflow-wrap: anywhere }
td.when { white-space: nowrap }
th { font-weight: 600; color: #4a5568; overflow-wrap: normal }
.n { text-align: right; white-space: nowrap }
th:last-child, td:last-child { padding-right: 0 }
td.bad { color: #b3261e; font-weight: 600 }
td.warn { color: #8a5a00; font-weight: 600 }
td.good { color: #22693a }
code, pre { font: .88em/1.45 ui-monospace, monospace; background: #f1f5f9; border-radius: .2rem
  }
code { padding: .05rem .3rem; overflow-wrap: anywhere }
pre { padding: .6rem; overflow-x: auto }
.picture svg, svg.chart { display: block; max-width: 100%; height: auto; margin: 0 auto }
svg.chart { width: 720px; margin: 0 }
svg.chart text { font: 11px system-ui, sans-serif; fill: #4a5568 }
.legend { font-size: .85rem }
.key { margin-right: 1rem; white-space: nowrap }
.key i { display: inline-block; width: .8rem; height: .8rem; margin-right: .35rem;
  vertical-align: -.1rem }
.advice { border-left: 4px solid #a0aec0; padding: .1rem 0 .1rem .9rem; margin: 1rem 0 }
.advice.losing { border-color: #c01c28 }
.advice.risk { border-color: #d69e2e }
.advice h3 { margin-top: 0 }
dl { display: grid; grid-template-columns: 5.5rem 1fr; gap: .15rem .6rem; margin: .3rem 0 }
dt { color: #5a6472 }
dd { margin: 0; overflow-wrap: anywhere; min-width: 0 }
nav a { margin-right: 1rem; white-space: nowrap }
nav { margin-top: .8rem }
@media print { nav { display: none } body { max-width: none } }
"""
