// A server: what it does is the path of the request.
let served = 0;

addEventListener('fetch', (event) => event.respondWith(answer(event.request)));

async function answer(request) {
  served += 1;
  const { pathname } = new URL(request.url);
  if (pathname === '/raise') {
    throw new Error('asked to raise');
  }
  const text = pathname === '/count' ? `${served}` : `javascript says ${pathname}`;
  console.log(`said ${text}`);
  return new Response(text);
}
