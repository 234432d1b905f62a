// Opens a report in a browser as a person would: `report.mjs FILE SCREENSHOT-PREFIX`. Prints what was
// found as JSON: requests, text, and how it looks on each screen and on paper.
import { chromium } from 'playwright-core';

const [file, screenshots] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking'],
});
const found = { requests: [], errors: [], screens: [] };

// The colours of text and of what is behind it, and whether anything sticks out.
const look = () => {
  const style = getComputedStyle(document.body);
  const outside = [...document.querySelectorAll('body *')].filter((element) => {
    const box = element.getBoundingClientRect();
    return !element.closest('.scroll') && box.right > innerWidth + 1 && box.width > 0;
  });
  return {
    color: style.color,
    background: style.backgroundColor,
    fontSize: parseFloat(style.fontSize),
    scrolls: document.documentElement.scrollWidth > innerWidth,
    outside: outside.map((element) => element.outerHTML.slice(0, 80)),
    bars: document.querySelectorAll('#timeline .track i').length,
  };
};

for (const [name, width, colorScheme] of [
  ['desktop', 1100, 'light'],
  ['dark', 1100, 'dark'],
  ['phone', 360, 'light'],
]) {
  const page = await browser.newPage({ viewport: { width, height: 800 }, colorScheme });
  page.on('request', (request) => found.requests.push(request.url()));
  page.on('console', (message) => found.errors.push(message.text()));
  page.on('pageerror', (error) => found.errors.push(String(error)));
  await page.goto(`file://${file}`, { waitUntil: 'networkidle' });
  found.screens.push({ name, ...(await page.evaluate(look)) });
  found.text = await page.evaluate(() => document.body.innerText);
  found.scripts = await page.evaluate(() => document.scripts.length);
  await page.screenshot({ path: `${screenshots}-${name}.png`, fullPage: true });
  if (name === 'desktop') {
    const pdf = await page.pdf({ path: `${screenshots}.pdf`, format: 'A4' });
    found.pdfPages = (pdf.toString('latin1').match(/\/Type \/Page\b/g) ?? []).length;
  }
  await page.close();
}
await browser.close();
console.log(JSON.stringify(found));
