"""The page that `report_html` fills: styles and a Jinja template."""

STYLE = """
:root { --ink: #202124; --muted: #5f6368; --line: #dfe1e5; --soft: #f6f7f9; color-scheme: light; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; color: var(--ink); background: #fff; line-height: 1.5; font-size: 16px;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .35rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .5rem; padding-top: 1.1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
p { margin: .5rem 0; max-width: 46rem; }
.facts, .note, figcaption { color: var(--muted); font-size: .875rem; }
.headline { font-size: 1.15rem; line-height: 1.5; margin: 1.25rem 0 0; padding: .9rem 1.1rem; max-width: none;
  background: var(--soft); border-left: 4px solid #0072B2; border-radius: 0 6px 6px 0; }
.scroll { overflow-x: auto; margin: .75rem 0; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .8rem; text-align: right; vertical-align: baseline; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--muted); font-size: .8rem; vertical-align: bottom; line-height: 1.3; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
td:first-child, th[scope=row] { font-weight: 600; color: var(--ink); font-size: .9rem; white-space: nowrap; }
td { white-space: nowrap; }
td.text { white-space: normal; font-weight: 400; color: var(--muted); }
td small { display: block; color: var(--muted); font-size: .74rem; white-space: nowrap; }
.matrix { border-collapse: separate; border-spacing: 3px; }
.matrix th, .matrix td { border: 0; }
.matrix th { color: var(--ink); }
.matrix td { text-align: center; min-width: 6.1rem; padding: .5rem .5rem; border-radius: 4px; font-size: 1.02rem; }
.matrix th[scope=col] { text-align: center; }
.matrix td, .matrix th[scope=row] { vertical-align: middle; }
.matrix td small { color: inherit; opacity: .85; }
.matrix td.none { background: #f1f3f4; color: #9aa0a6; }
.dot { display: inline-block; width: .62em; height: .62em; border-radius: 50%; margin-right: .45em; }
figure { margin: 1rem 0; }
figure svg { width: 100%; height: auto; max-width: 38rem; display: block; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); gap: .9rem 1.4rem; }
.panels svg { width: 100%; height: auto; display: block; }
.sample { border: 1px solid var(--line); border-radius: 8px; margin: 1rem 0; overflow: hidden; break-inside: avoid; }
.post { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 15rem; overflow-y: auto; margin: 0;
  padding: .8rem 1rem; background: var(--soft);
  font: .82rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
dl { margin: 0; padding: .35rem 1rem .55rem; display: grid; grid-template-columns: max-content 1fr; gap: 0 1.1rem; }
dt { font-weight: 600; font-size: .85rem; padding: .28rem 0; white-space: nowrap; }
dd { margin: 0; padding: .28rem 0; font-size: .92rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.empty { color: var(--muted); font-style: italic; }
.bar { display: block; height: .5rem; background: #9bb8d3; border-radius: 2px; min-width: 1px; }
.bars td:last-child { width: 14rem; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); gap: 0 2.5rem; }
details { margin: .75rem 0; }
summary { cursor: pointer; font-weight: 600; }
pre.config { overflow-x: auto;
  background: var(--soft); padding: 1rem; border-radius: 6px; font-size: .8rem; line-height: 1.45; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  font-size: .88em; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  main { padding: 1.4rem 1rem 3rem; }
  h1 { font-size: 1.4rem; }
  .headline { font-size: 1.03rem; }
  th, td { padding: .38rem .5rem; }
  td:first-child, th[scope=row] { font-size: .82rem; }
  th[scope=row], td:first-child { position: sticky; left: 0; background: #fff; }
  .matrix td { min-width: 5.2rem; font-size: .95rem; }
  dl { grid-template-columns: 1fr; }
  dt { padding-bottom: 0; }
  dd { padding-top: 0; }
}
@media print { .post { max-height: none; } details > * { display: block; } }
"""

TEMPLATE = """\
{% macro dot(player) %}<span class="dot" style="background:{{ palette[player] }}"></span>{% endmacro %}
{% macro pair(parts) %}{{ parts[0] }}{% if parts[1] %}<small>{{ parts[1] }}</small>{% endif %}{% endmacro %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ results.title }}</title>
<style>{{ style }}</style>
</head>
<body>
<main>
<header>
<h1>{{ results.title }}</h1>
<p class="facts">{{ facts | join(" · ") }}</p>
<p class="headline">{{ headline }}</p>
{% for note in results.notes or [] %}
<p>{{ note }}</p>
{% endfor %}
</header>

<section>
<h2>Win rates</h2>
<p class="note">The row's player against the column's, in %, with 95 % bootstrap intervals over prompts.
{{ scoring }}</p>
<div class="scroll"><table class="matrix">
<thead><tr><th></th>
{% for player, name in names.items() %}
<th scope="col">{{ dot(player) }}{{ name }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for player, cells in matrix %}
<tr><th scope="row">{{ dot(player) }}{{ names[player] }}</th>
{% for cell in cells %}
{% if cell is none %}
<td class="none">&ndash;</td>
{% else %}
<td style="background:{{ cell.ground }};color:{{ cell.ink }}">{{ cell.mean }}<small>{{ cell.span }}</small></td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
</tbody></table></div>
{% if exploited %}
<details><summary>Exploitability within this pool</summary>
<p class="note">The opponent that does best against each player: a lower bound of what a best response could reach.</p>
<div class="scroll"><table>
<thead><tr><th scope="col">player</th><th class="text" scope="col">best opponent</th>
<th scope="col">its win rate (%)</th></tr></thead>
<tbody>
{% for player, by, mean, span in exploited %}
<tr><td>{{ player }}</td><td class="text">{{ by }}</td><td>{{ pair((mean, span)) }}</td></tr>
{% endfor %}
</tbody></table></div>
</details>
{% endif %}
</section>

<section>
<h2>Players</h2>
<div class="scroll"><table>
<thead><tr>{% for column in columns %}<th scope="col">{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for player, cells in rows %}
<tr><td>{{ dot(player) }}{{ cells[0] }}</td>
{% for cell in cells[1:] %}
<td>{% if cell is string %}{{ cell }}{% else %}{{ pair(cell) }}{% endif %}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody></table></div>
<p class="note">Small print under a number is its 95 % bootstrap interval over prompts. KL is
estimated from each policy's
own samples, per completion. Copied: the output stands word for word in the post.</p>
{% for player, row in results.players.items() if row.note %}
<p class="note">{{ dot(player) }}<b>{{ names[player] }}</b>: {{ row.note }}</p>
{% endfor %}
{% if seeds[1] %}
<h3>Spread over seeds: win rate against {{ baseline }} (%)</h3>
<div class="scroll"><table>
<thead><tr>{% for column in seeds[0] %}<th scope="col">{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for cells in seeds[1] %}
<tr>{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endif %}
</section>

<section>
<h2>Win rate against KL</h2>
<figure class="frontier">{{ frontier }}</figure>
<p class="note">Up and to the left is better: more wins against {{ baseline }} for less distance from the reference.
Bars are 95 % intervals{% if seeds[1] %}; small points are other seeds{% endif %}.</p>
</section>

{% if curves %}
<section>
<h2>Learning curves</h2>
{% for group, panels in curves.items() %}
<h3>{{ group }}</h3>
<div class="panels">{% for panel in panels %}<div>{{ panel }}</div>{% endfor %}</div>
{% endfor %}
<p class="note">Thin: logged values. Thick: their local mean.</p>
</section>
{% endif %}

{% if samples %}
<section>
<h2>Sample outputs</h2>
{% for sample in samples %}
<article class="sample">
<div class="post" tabindex="0">{{ sample.post }}</div>
<dl>
{% for name, colour, text in sample.outputs %}
<dt><span class="dot" style="background:{{ colour }}"></span>{{ name }}</dt>
<dd>{% if text.strip() %}{{ text.strip() }}{% else %}<span class="empty">empty</span>{% endif %}</dd>
{% endfor %}
</dl>
</article>
{% endfor %}
</section>
{% endif %}

<section>
<h2>Judges</h2>
<div class="scroll"><table>
<thead><tr><th scope="col">judge</th><th scope="col">accuracy on held-out pairs (%)</th>
<th class="text" scope="col"></th></tr></thead>
<tbody>
{% for name, mean, span, note in judges %}
<tr><td>{{ name }}</td><td>{{ pair((mean, span)) }}</td><td class="text">{{ note }}</td></tr>
{% endfor %}
</tbody></table></div>
{% if agreement %}
<p>The judges prefer the same side on {{ agreement[0] }} % of the pairs ({{ agreement[1] }} %).</p>
{% endif %}
{% if biases %}
<p class="note">Length bias of the held-out judge, the correlation of its margin with the difference in length
(0: none):
{% for name, mean, span in biases %}{{ name }} {{ mean }} ({{ span }})
{{- "; " if not loop.last else "." }}{% endfor %}</p>
{% endif %}
</section>

<section>
<h2>Data and time</h2>
<div class="columns">
<div>
<p>{{ data }}</p>
{% if splits %}
<div class="scroll"><table>
<thead><tr><th scope="col">split</th><th scope="col">pairs</th><th scope="col">packages</th></tr></thead>
<tbody>
{% for name, split in splits.items() %}
<tr><td>{{ name }}</td><td>{{ "{:,}".format(split.pairs) }}</td><td>{{ "{:,}".format(split.packages) }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% for key, value in more_data.items() %}
<p class="note">{{ key }}: {{ value }}</p>
{% endfor %}
</div>
<div class="scroll"><table class="bars">
<thead><tr><th scope="col">stage</th><th scope="col">wall clock</th><th></th></tr></thead>
<tbody>
{% for stage, time, share in times %}
<tr><td>{{ stage }}</td><td>{{ time }}</td>
<td><span class="bar" style="width:{{ "%.1f"|format(share) }}%"></span></td></tr>
{% endfor %}
<tr><td>total</td><td>{{ total }}</td><td></td></tr>
</tbody></table></div>
</div>
</section>

<section>
<h2>Reproduction</h2>
{% if results.command %}
<p><code>{{ results.command }}</code></p>
{% endif %}
<div class="columns">
<div class="scroll"><table>
<thead><tr><th scope="col">package</th><th scope="col">version</th></tr></thead>
<tbody>
{% for name, version in results.versions.items() %}
<tr><td>{{ name }}</td><td>{{ version }}</td></tr>
{% endfor %}
</tbody></table></div>
<div class="scroll"><table>
<thead><tr><th scope="col">seed of</th><th scope="col">value</th></tr></thead>
<tbody>
{% for name, seed in results.seeds.items() %}
<tr><td>{{ name.replace("_", " ") }}</td><td>{{ seed }}</td></tr>
{% endfor %}
</tbody></table></div>
</div>
{% if results.git %}
<p class="note">git commit <code>{{ results.git }}</code></p>
{% endif %}
<details><summary>Resolved config</summary>
<pre class="config">{{ config }}</pre>
</details>
</section>
</main>
</body>
</html>
"""
