// Tokens by jose and jsonwebtoken: a request `[library, algorithm, key, claims, header]` on each line of the input, a
// token on each line of the output. A key is PEM, or the text of a secret.
import { createInterface } from 'node:readline';
import { importPKCS8, SignJWT } from 'jose';
import jsonwebtoken from 'jsonwebtoken';

const makers = {
  async jose(algorithm, key, claims, header) {
    const own = key.startsWith('-----') ? await importPKCS8(key, algorithm) : new TextEncoder().encode(key);
    return new SignJWT(claims).setProtectedHeader({ alg: algorithm, ...header }).sign(own);
  },
  jsonwebtoken(algorithm, key, claims, header) {
    return jsonwebtoken.sign(claims, key, { algorithm, header });
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const [library, ...request] = JSON.parse(line);
  console.log(await makers[library](...request));
}
